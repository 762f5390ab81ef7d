// Package edit is declarative change to a tree: put, delete, move, replace, patch. It is pure: it reads a tree through
// [Source] and says what the new one differs in; it knows neither git's objects nor the network.
package edit

import "context"

// Mode is a file's mode as git writes it in a tree.
type Mode string

// The modes that git has.
const (
	ModeRegular    Mode = "100644"
	ModeExecutable Mode = "100755"
	ModeSymlink    Mode = "120000"
	ModeSubmodule  Mode = "160000"
	ModeDir        Mode = "040000"
)

// Change is one change; exactly one field is set.
//
// Changes are made in order, each on what the ones before it left. No path is named by two of put, delete and move, and none
// of these contradicts another; replace and patch may work on what they made.
type Change struct {
	Put     *Put     `json:"put,omitempty"`
	Delete  *Delete  `json:"delete,omitempty"`
	Move    *Move    `json:"move,omitempty"`
	Replace *Replace `json:"replace,omitempty"`
	Patch   *Patch   `json:"patch,omitempty"`
}

// Put writes a whole file, new or not. Missing directories come into being; a directory or a submodule at Path is an error.
type Put struct {
	Path     string `json:"path"`
	Content  string `json:"content"`
	Encoding string `json:"encoding,omitempty"` // "utf-8" (default) or "base64"
	// Mode is 100644, 100755, or 120000 for a symbolic link, whose target is Content. Empty, a file keeps the mode that it has and
	// a new one gets 100644; over a symbolic link it must be given.
	Mode Mode `json:"mode,omitempty"`
}

// Delete removes a file, a submodule or a whole directory. What is not there is an error.
type Delete struct {
	Path string `json:"path"`
}

// Move renames a file, a submodule or a whole directory. Nothing may be at To.
type Move struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Replace replaces text in every regular file that one of Paths matches; none need. Binary files (a NUL in the first 8,000
// bytes, as git decides) are passed over.
type Replace struct {
	Paths   []string `json:"paths"` // globs as package glob reads them, such as "**/*.go"
	Pattern string   `json:"pattern"`
	With    string   `json:"with"`             // with Regexp, $1 and ${name} are groups of Pattern, and $$ is a dollar
	Regexp  bool     `json:"regexp,omitempty"` // RE2; else Pattern is taken literally
}

// Patch applies a unified diff as `git diff --binary` writes it: to several files, new, deleted, renamed, copied or binary ones and
// modes too. Names have a/ and b/ in front. Context must match to the byte, at the stated lines or, failing that, at the only
// other place in the file where it does. As with git apply, a hunk from line 1 belongs at the beginning of the file, one
// without context at its end belongs at the end of the file, and a binary file must be the very one that the diff was made of. A
// diff without context (-U0) is refused where its place is not sure.
type Patch struct {
	Diff string `json:"diff"`
}

// Entry is one file of a tree; ID is the blob's hash in hex.
type Entry struct {
	Path string
	Mode Mode
	ID   string
}

// Source is the tree that is edited.
type Source interface {
	// Entry finds what is at path: a file, or a directory (ModeDir). found is false where nothing is.
	Entry(ctx context.Context, path string) (entry Entry, found bool, err error)
	// Files lists every file (no directories) below the directory dir, "" for the root, in git's order.
	Files(ctx context.Context, dir string) ([]Entry, error)
	// Blob reads a file's content; larger than limit bytes is a TooLarge fault.
	Blob(ctx context.Context, id string, limit int64) ([]byte, error)
}

// FileChange is one path in which the new tree differs from the source. Directories never stand here: where a file takes a
// directory's place, or the other way round, what was there stands here as deleted.
type FileChange struct {
	Path    string
	Deleted bool
	Mode    Mode
	// ID is the hex hash of a blob that the source already has (a move, another mode) or of a submodule's commit; empty where
	// Content is the blob.
	ID      string
	Content []byte
}
