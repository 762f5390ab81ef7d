package bench

import (
	"context"
	"os"
	"regexp"
)

// Work is one job in terms that all ways understand.
type Work struct {
	Way    string `json:"way"`
	Base   string `json:"base"`   // where the git server is
	Slug   string `json:"slug"`   // the repository below it, in the workspace of Workspace
	Folder string `json:"folder"` // an empty folder to work in
	Kept   string `json:"kept"`   // a folder with what the way keeps between jobs; empty where it is to know nothing
	File   string `json:"file"`   // to be edited
	Word   string `json:"word"`   // replaces the first word of File; empty: an archive is made instead
	// Before is another repository on the server, whose file of the same name is edited before the work and outside of the
	// measuring; empty: none is.
	Before string `json:"before"`
}

// Workspace is where the measured repositories are on the git server.
const Workspace = "bench"

// artifactName is the file below Work.Folder that an archive ends in.
const artifactName = "artifact.tar.gz"

func (w Work) url() string { return w.Base + "/" + Workspace + "/" + w.Slug + ".git" }

// What a script does by the git command line. An edit is sed's, of the first word of the file.
const (
	scriptEdit = `
sed -i "1s/^[a-z0-9]*/$WORD/" "$FILE"
git commit --quiet --all --message 'one line'
`
	scriptPush = `
git clone --quiet --depth 1 "$URL" tree
cd tree` + scriptEdit + `
git push --quiet origin main
`
	scriptMirror = `
git -C "$KEPT" fetch --quiet "$URL" '+refs/heads/main:refs/heads/main'
git -C "$KEPT" worktree add --quiet --detach "$PWD/tree" main
cd tree` + scriptEdit + `
git push --quiet "$URL" HEAD:main
`
	scriptArchive = `
git clone --quiet --depth 1 "$URL" tree
git -C tree archive --format=tar.gz --output="$PWD/` + artifactName + `" HEAD
`
	scriptBareArchive = `
git clone --quiet --depth 1 --bare "$URL" tree
git -C tree archive --format=tar.gz --output="$PWD/` + artifactName + `" HEAD
`
)

// byScript is the way of a script.
func byScript(script string) func(context.Context, Work) (Sample, error) {
	return func(ctx context.Context, work Work) (Sample, error) {
		return runScript(ctx, work.Folder, script, "URL="+work.url(), "KEPT="+work.Kept, "FILE="+work.File, "WORD="+work.Word, "HOME="+work.Folder)
	}
}

var firstWord = regexp.MustCompile(`\A\w+`)

// edited is a file's content with its first word replaced.
func edited(content []byte, word string) []byte { return firstWord.ReplaceAll(content, []byte(word)) }

func editFile(name, word string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, edited(content, word), 0o644) //nolint:gosec // the mode that git gave it
}
