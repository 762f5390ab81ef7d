package gitrepo_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// added is the tree that git add -A makes of a folder, whose tip is main in the repository gitDir.
func added(gitDir, dir string) (string, error) {
	ctx := context.Background()
	if _, err := gittest.Git(ctx, gitDir, nil, "read-tree", "main"); err != nil {
		return "", err
	}
	if _, err := gittest.Git(ctx, dir, nil, "--git-dir="+gitDir, "--work-tree="+dir, "add", "-A", "."); err != nil {
		return "", err
	}
	return gittest.Git(ctx, gitDir, nil, "write-tree")
}

// built is the tree that the changes of a folder come to.
func built(snapshot *gitrepo.Snapshot, dir string) (string, []edit.FileChange, error) {
	changes, err := snapshot.Changes(context.Background(), dir, edit.Limits{})
	if err != nil {
		return "", nil, err
	}
	commit, err := snapshot.Build(context.Background(), changes, spec("j1"))
	if err != nil {
		return "", nil, err
	}
	return commit.Tree, changes, nil
}

// TestChangesAreWhatGitAdds: random work in a folder comes to the tree that git add -A makes of it.
func TestChangesAreWhatGitAdds(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(map[string]string{
		"a/a/a": "1\n", "a/b": "2\n", "b": "3\n", "build/kept": "tracked, though ignored\n", "lib/x.log": "4\n", "lib/sub/keep": "5\n", ".gitignore": "build/\n*.log\n!keep\n",
	})
	gitDir, snapshot := b.clone(), b.snapshot()
	top, folders := t.TempDir(), 0
	rapid.Check(t, func(r *rapid.T) {
		folders++
		dir := filepath.Join(top, strconv.Itoa(folders))
		if err := errors.Join(os.Mkdir(dir, 0o700), snapshot.Checkout(context.Background(), dir)); err != nil {
			r.Fatal(err)
		}
		for range rapid.IntRange(0, 8).Draw(r, "steps") {
			work(r, dir)
		}
		ours, changes, err := built(snapshot, dir)
		theirs, err2 := added(gitDir, dir)
		if err = errors.Join(err, err2); err != nil {
			r.Fatal(err)
		}
		if ours != theirs {
			listing, _ := gittest.Git(context.Background(), gitDir, nil, "ls-files", "-s")
			r.Fatalf("the changes make the tree %s, git add %s of\n%s\n%+v\n%v", ours, theirs, listing, changes, ignoreFiles(dir))
		}
	})
}

// TestIgnoredAsByGit: of a folder full of files that are not in the snapshot, those are left out that git leaves out.
func TestIgnoredAsByGit(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(map[string]string{"a/tracked": "1\n", "b/b": "2\n"})
	gitDir, snapshot, dir := b.clone(), b.snapshot(), t.TempDir()
	if err := snapshot.Checkout(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"a/a", "a/b/a", "a/b/keep", "a/x.log", "b/a", "lib/a", "lib/sub/b", "lib/sub/keep/a", "lib/x.log", "x.log", "{c}", "c", "!a", "#a", "keep", "with space", "b ",
		"build/new", "build/keep", "ab", "aXb", "A", ".hidden", "x[", "ünï", "sub/a/b/b", "a.b",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(r *rapid.T, lines []string) {
		if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			r.Fatal(err)
		}
		ours, _, err := built(snapshot, dir)
		theirs, err2 := added(gitDir, dir)
		if err = errors.Join(err, err2); err != nil || ours != theirs {
			listing, _ := gittest.Git(context.Background(), gitDir, nil, "ls-files")
			r.Fatalf("%q makes the tree %s, git has %s (%v) of\n%s", ignoreFiles(dir), ours, theirs, err, listing)
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		below := rapid.SliceOfN(rapid.SampledFrom(patterns), 0, 2).Draw(r, "below")
		if err := os.WriteFile(filepath.Join(dir, "lib/.gitignore"), []byte(strings.Join(below, "\n")), 0o600); err != nil {
			r.Fatal(err)
		}
		check(r, rapid.SliceOfN(rapid.SampledFrom(patterns), 1, 4).Draw(r, "patterns"))
	})
}

func ignoreFiles(dir string) map[string]string {
	found := map[string]string{}
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, _ error) error {
		if entry.Name() == ".gitignore" {
			content, _ := os.ReadFile(path)
			found[path] = string(content)
		}
		return nil
	})
	return found
}

var (
	workNames = []string{"a", "b", "build", "lib", "sub", "keep", "x.log", "y.log", "with space", "{c}", "ünï", ".hidden", "a.b"}
	patterns  = []string{
		"a", "/a", "a/", "a/b", "/a/b", "**/b", "a/**", "a/**/b", "*", "!*", "*/", "!*/", "*.log", "!x.log", "!/lib/x.log", "!keep", "lib/*", "!lib/sub", "[ab]", "[!ab]", "[[:alpha:]]",
		"{c}", "\\{c}", "{a,b}", "with space", "with space  ", "b\\ ", "\\!a", "# no", "\\#a", "a**b", "**", "/", "//a", "!", "?", "*u*", "**/", "/**", "!**/keep", "!build/", "!build/new", "build/*", "!a/b", "!lib/", "a.?", "b\r", "x[", "a\\", ".*", "a/b[!x]a", "lib[!x]a", "lib/sub[^x]b",
	}
)

// work does something in a folder, as a command might.
func work(r *rapid.T, dir string) {
	path := filepath.Join(append([]string{dir}, rapid.SliceOfN(rapid.SampledFrom(workNames), 1, 3).Draw(r, "path")...)...)
	switch rapid.IntRange(0, 8).Draw(r, "what") {
	case 0:
		_ = os.RemoveAll(path)
	case 1:
		_ = os.MkdirAll(path, 0o755)
	case 2:
		_ = os.RemoveAll(path)
		_ = os.Symlink(rapid.SampledFrom([]string{"b", "../..", "/etc", "nowhere", "."}).Draw(r, "target"), path)
	case 3:
		_ = os.Rename(path, filepath.Join(dir, rapid.SampledFrom(workNames).Draw(r, "to")))
	case 4:
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
			_ = os.Chmod(path, 0o755)
		}
	case 5:
		lines := rapid.SliceOfN(rapid.SampledFrom(patterns), 0, 5).Draw(r, "patterns")
		_ = os.WriteFile(filepath.Join(filepath.Dir(path), ".gitignore"), []byte(strings.Join(lines, "\n")), 0o600)
	default:
		if os.MkdirAll(filepath.Dir(path), 0o755) == nil {
			_ = os.WriteFile(path, []byte(rapid.SampledFrom([]string{"", "1\n", "\x00new", "text\n"}).Draw(r, "content")), 0o600)
		}
	}
}

// TestCheckoutIsComplete: every kind of entry is in the folder as git has it, whichever way the tip was read, and nothing differs then.
func TestCheckoutIsComplete(t *testing.T) {
	t.Parallel()
	s := startSparse(t, gitrepo.Config{})
	s.create(map[string]string{"README.md": "read me\n"})
	s.importing("commit refs/heads/main\ncommitter T <t@example.com> 1767225600 +0000\ndata 1\nx\nfrom refs/heads/main^0\n" +
		modify("bin/run", version{edit.ModeExecutable, "#!/bin/sh\n"}) + modify("links/out", version{edit.ModeSymlink, "../../../etc/passwd"}) +
		modify("links/in", version{edit.ModeSymlink, "../bin"}) + modify("dir/latin-\xe9", version{edit.ModeRegular, strings.Repeat("big\n", 600_000)}) +
		modify(".gitignore", version{edit.ModeRegular, "bin/\n"}) + "M 160000 0123456789abcdef0123456789abcdef01234567 module\n\n")
	gitDir := s.clone()
	for _, want := range []gitrepo.Want{
		{Ref: "refs/heads/main", Depth: 1},
		{Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true},
		{Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true}, // from the tip cache
	} {
		snapshot, err := s.client.Fetch(t.Context(), cachedRemote, want)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := snapshot.Checkout(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(filepath.Join(dir, "module")); err != nil || !info.IsDir() {
			t.Errorf("the submodule: %v, %v", info, err)
		}
		if tree, err := added(gitDir, dir); err != nil || tree != s.cli("rev-parse", "main^{tree}") {
			t.Errorf("%s: git finds the tree %s in the folder (%v)", snapshot.Way(), tree, err)
		}
		if changes, err := snapshot.Changes(t.Context(), dir, edit.Limits{BlobBytes: 10}); err != nil || len(changes) > 0 {
			t.Errorf("%s: untouched, and differs in %v (%v)", snapshot.Way(), changes, err)
		}
		if err := snapshot.Checkout(t.Context(), dir); fault.KindOf(err) != fault.Internal {
			t.Errorf("into a folder that is not empty: %v", err)
		}
		if err := snapshot.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckoutRefuses(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{MaxRepository: 100_000})
	b.create(map[string]string{"a": "a\n"})
	outside := t.TempDir()
	raw := func(entries ...string) string { // "mode name" and content, in pairs
		var tree strings.Builder
		for i := 0; i < len(entries); i += 2 {
			id := entries[i+1]
			if !strings.HasPrefix(entries[i], "40000 ") {
				id = b.hashed("blob", id)
			}
			tree.WriteString(entries[i] + "\x00" + unhex(id))
		}
		return b.hashed("tree", tree.String())
	}
	file := raw("100644 planted", "x\n")
	for name, test := range map[string]struct {
		tree string
		kind fault.Kind
	}{
		"through a link":     {raw("120000 d", outside, "40000 d", file), fault.Invalid},
		"a link, then file":  {raw("120000 d", outside+"/f", "100644 d", "x\n"), fault.Invalid},
		"the parent":         {raw("100644 ..", "x\n"), fault.Invalid},
		"up through":         {raw("40000 ..", file), fault.Invalid},
		"git's own folder":   {raw("40000 .git", file), fault.Invalid},
		"a slash":            {raw("100644 a/b", "x\n"), fault.Invalid},
		"a link to nothing":  {raw("120000 l", ""), fault.Invalid},
		"a long name":        {raw("100644 "+strings.Repeat("n", 300), "x\n"), fault.Invalid},
		"larger than we may": {raw("100644 a", strings.Repeat("0", 60_000), "100644 b", strings.Repeat("0", 60_000)), fault.TooLarge},
	} {
		commit := b.hashed("commit", "tree "+test.tree+"\nauthor A <a@example.com> 1700000000 +0100\ncommitter C <c@example.com> 1700000000 +0100\n\nraw\n")
		b.cli("update-ref", "refs/heads/raw", commit)
		snapshot, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{Ref: "refs/heads/raw", Depth: 1})
		if err != nil {
			t.Fatal(name, err)
		}
		if err := snapshot.Checkout(t.Context(), t.TempDir()); err == nil || fault.KindOf(err) != test.kind {
			t.Errorf("%s: %v, want %s", name, err, test.kind)
		}
		if err := snapshot.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("written outside: %v, %v", left, err)
	}
}

// hashed writes a raw object at the server, whatever git thinks of it.
func (b *bench) hashed(kind, content string) string {
	b.t.Helper()
	id, err := gittest.Git(b.t.Context(), b.git.Path("acme/web"), strings.NewReader(content), "hash-object", "-t", kind, "--literally", "-w", "--stdin")
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func TestChangesRefuses(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(map[string]string{"a": "a\n", ".gitmodules": "", "sub/x": "x\n", ".gitignore": "ignored\n"})
	snapshot := b.snapshot()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	limits := edit.Limits{Files: 3, BlobBytes: 100, WriteBytes: 150}
	for name, test := range map[string]struct {
		change func(dir string) error
		kind   fault.Kind
		want   map[string]string // of the changes, where it is none that is refused: - for deleted
	}{
		"a pipe":         {func(dir string) error { return syscall.Mkfifo(dir+"/pipe", 0o600) }, fault.Invalid, nil},
		"an ignored one": {func(dir string) error { return syscall.Mkfifo(dir+"/ignored", 0o600) }, 0, map[string]string{}},
		"a socket": {func(dir string) error {
			listener, err := net.Listen("unix", dir+"/s")
			if err == nil {
				t.Cleanup(func() { _ = listener.Close() })
			}
			return err
		}, fault.Invalid, nil},
		"a name in disguise": {func(dir string) error { return os.WriteFile(dir+"/.GIT", nil, 0o600) }, fault.Invalid, nil},
		"a backslash":        {func(dir string) error { return os.WriteFile(dir+`/a\b`, nil, 0o600) }, fault.Invalid, nil},
		"git reads it": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/.gitmodules"), os.Symlink("a", dir+"/.gitmodules"))
		}, fault.Invalid, nil},
		"a repository": {func(dir string) error { return os.MkdirAll(dir+"/.git/hooks", 0o700) }, 0, map[string]string{}},
		"links are not followed": {func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/sub"), os.Symlink(filepath.Dir(secret), dir+"/sub"), os.Remove(dir+"/a"), os.Symlink(secret, dir+"/a"))
		}, 0, map[string]string{"sub": filepath.Dir(secret), "sub/x": "-", "a": secret}},
		"ignore file is a link": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/.gitignore"), os.Symlink(secret, dir+"/.gitignore"), os.WriteFile(dir+"/ignored", []byte("1"), 0o600))
		}, 0, map[string]string{".gitignore": secret, "ignored": "1"}},
		"a large file": {func(dir string) error { return os.WriteFile(dir+"/new", make([]byte, 101), 0o600) }, fault.TooLarge, nil},
		"much": {func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/1", make([]byte, 80), 0o600), os.WriteFile(dir+"/2", make([]byte, 80), 0o600))
		}, fault.TooLarge, nil},
		"many": {func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) }, fault.TooLarge, nil},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		if err := errors.Join(os.Mkdir(dir, 0o700), snapshot.Checkout(t.Context(), dir), test.change(dir)); err != nil {
			t.Fatal(name, err)
		}
		changes, err := snapshot.Changes(t.Context(), dir, limits)
		if test.want == nil {
			if err == nil || fault.KindOf(err) != test.kind {
				t.Errorf("%s: %v, want %s", name, err, test.kind)
			}
			continue
		}
		found := map[string]string{}
		for _, change := range changes {
			found[change.Path] = string(change.Content)
			if change.Deleted {
				found[change.Path] = "-"
			}
		}
		if err != nil || !maps.Equal(found, test.want) || !slices.IsSortedFunc(changes, func(a, b edit.FileChange) int { return strings.Compare(a.Path, b.Path) }) {
			t.Errorf("%s: %q, %v; want %q", name, found, err, test.want)
		}
	}
}

// TestChangesNameBlobs: what is moved, or made executable, is not held.
func TestChangesNameBlobs(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(map[string]string{"a": "a\n", "b": strings.Repeat("b\n", 500)})
	snapshot, dir := b.snapshot(), t.TempDir()
	if err := errors.Join(snapshot.Checkout(t.Context(), dir), os.Chmod(dir+"/a", 0o700), os.Rename(dir+"/b", dir+"/c")); err != nil {
		t.Fatal(err)
	}
	changes, err := snapshot.Changes(t.Context(), dir, edit.Limits{BlobBytes: 10, WriteBytes: 1})
	if err != nil || len(changes) != 3 || changes[0].Mode != edit.ModeExecutable || changes[0].ID == "" || !changes[1].Deleted || changes[2].ID == "" {
		t.Errorf("%+v, %v", changes, err)
	}
}
