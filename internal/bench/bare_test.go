package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// bare is a packed bare repository, put back as it was after each round.
type bare struct {
	tb    testing.TB
	path  string
	tip   string
	packs map[string]bool // the files of its packs
}

func openBare(tb testing.TB, path string) *bare {
	tb.Helper()
	b := &bare{tb: tb, path: path, packs: map[string]bool{}}
	b.tip = b.git("rev-parse", "refs/heads/main")
	for _, entry := range b.objects("pack") {
		b.packs[entry.Name()] = true
	}
	return b
}

func (b *bare) objects(folder string) []os.DirEntry {
	b.tb.Helper()
	entries, err := os.ReadDir(filepath.Join(b.path, "objects", folder))
	if err != nil {
		b.tb.Fatal(err)
	}
	return entries
}

func (b *bare) git(args ...string) string {
	b.tb.Helper()
	return gitOutput(b.tb, b.path, args...)
}

// reset puts the branch back, to a commit that was there when the repository was opened, and removes what came since.
func (b *bare) reset(commit string) {
	b.tb.Helper()
	b.git("update-ref", "refs/heads/main", commit)
	var came []string
	for _, entry := range b.objects("") {
		if len(entry.Name()) == 2 {
			came = append(came, filepath.Join("objects", entry.Name()))
		}
	}
	for _, entry := range b.objects("pack") {
		if !b.packs[entry.Name()] {
			came = append(came, filepath.Join("objects", "pack", entry.Name()))
		}
	}
	for _, name := range append(came, "worktrees") {
		if err := os.RemoveAll(filepath.Join(b.path, name)); err != nil {
			b.tb.Fatal(err)
		}
	}
}

// expected is the tree that the git command line makes of parent by the edit. Its objects are there already after a push of
// the same.
func (b *bare) expected(parent, file, word string) string {
	b.tb.Helper()
	index := "GIT_INDEX_FILE=" + filepath.Join(b.tb.TempDir(), "index")
	b.plumb(index, nil, "read-tree", parent)
	content := edited([]byte(b.plumb(index, nil, "cat-file", "blob", parent+":"+file)), word)
	blob := strings.TrimSpace(b.plumb(index, content, "hash-object", "-w", "--stdin"))
	b.plumb(index, nil, "update-index", "--cacheinfo", "100644,"+blob+","+file)
	return strings.TrimSpace(b.plumb(index, nil, "write-tree"))
}

func (b *bare) plumb(variable string, stdin []byte, args ...string) string {
	b.tb.Helper()
	command := exec.CommandContext(b.tb.Context(), "git", args...)
	command.Dir, command.Env, command.Stdin = b.path, append(gitEnvironment(), variable), bytes.NewReader(stdin)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		b.tb.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out)
}

// checkPush lets git say that exactly one commit with the expected tree stands on parent, and that the repository is sound.
func (b *bare) checkPush(parent, tree string, fsck ...string) error {
	b.tb.Helper()
	want := tree + " " + parent
	if got := b.git("log", "-1", "--format=%T %P", "refs/heads/main"); got != want {
		return fmt.Errorf("the branch has tree and parent %s, want %s", got, want)
	}
	return b.sound(fsck...)
}

// sound is an error where git fsck --strict has anything to say.
func (b *bare) sound(options ...string) error {
	b.tb.Helper()
	arguments := append([]string{"fsck", "--strict", "--no-dangling", "--no-progress"}, options...)
	command := exec.CommandContext(b.tb.Context(), "git", arguments...)
	command.Dir, command.Env = b.path, gitEnvironment()
	said, err := command.CombinedOutput()
	if err != nil || len(said) > 0 {
		return fmt.Errorf("git fsck: %w: %s", err, said)
	}
	return nil
}
