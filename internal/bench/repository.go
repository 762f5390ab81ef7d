// Package bench compares Gitsmith with what its users would do without it: a push and an archive job with the git command line,
// the receiver with a bare enqueue. `make bench` runs it; the figures of the last run that was kept are in docs/performance.md.
package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// Shape is the size of a repository to measure on. The same shape always gives the same commits.
type Shape struct {
	Name    string
	Files   int
	Commits int
	// Words is the mean length of a file. A word is some six bytes.
	Words int
	// Edits is the number of files that each commit changes, Rewritten the words that it rewrites in each.
	Edits, Rewritten int
}

// Small is a new service.
func Small() Shape {
	return Shape{Name: "small", Files: 50, Commits: 100, Words: 500, Edits: 1, Rewritten: 40}
}

// Medium is a service that a team has worked on for years: 37 MB packed.
func Medium() Shape {
	return Shape{Name: "medium", Files: 3000, Commits: 5000, Words: 2200, Edits: 2, Rewritten: 220}
}

// Large is what a company keeps in one repository: 139 MB packed, 41 MB of them for the tip alone.
func Large() Shape {
	return Shape{Name: "large", Files: 20_000, Commits: 20_000, Words: 530, Edits: 4, Rewritten: 228}
}

// Build makes a bare repository of the shape below root, packed as a server would have it, with its branch main. One that is
// there already is used again. It needs git in PATH. Where ctx ends early nothing is left below its final name.
func Build(ctx context.Context, root string, shape Shape) (directory string, err error) {
	// The parameters are part of the name, so that a changed shape is built anew; so is the version of what follows from them.
	name := fmt.Sprintf("%s-3-%d-%d-%d-%d-%d.git", shape.Name, shape.Files, shape.Commits, shape.Words, shape.Edits, shape.Rewritten)
	directory = filepath.Join(root, name)
	if _, err := os.Stat(directory); err == nil {
		return directory, nil
	}
	if err := os.MkdirAll(root, 0o750); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(root, "building-*")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	for _, step := range []struct {
		args  []string
		stdin func(io.Writer) error
	}{
		{args: []string{"init", "--quiet", "--bare", "--initial-branch=main", "."}},
		{args: []string{"fast-import", "--quiet", "--done"}, stdin: shape.stream},
		{args: []string{"repack", "--quiet", "-adf"}},
		{args: []string{"config", "http.receivepack", "true"}},
	} {
		if err := run(ctx, scratch, step.stdin, step.args...); err != nil {
			return "", err
		}
	}
	return directory, os.Rename(scratch, directory)
}

func run(ctx context.Context, directory string, stdin func(io.Writer) error, args ...string) error {
	command := exec.CommandContext(ctx, "git", args...)
	command.Dir, command.Env = directory, gitEnvironment()
	var stderr bytes.Buffer
	command.Stderr = &stderr
	if stdin != nil {
		reader, writer := io.Pipe()
		defer reader.Close() //nolint:errcheck // ends the stream where git ended first
		go func() { writer.CloseWithError(stdin(writer)) }()
		command.Stdin = reader
	}
	if err := command.Run(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// gitEnvironment keeps the settings of this machine out of the comparison.
func gitEnvironment() []string {
	return append(gittest.Environ(),
		"GIT_AUTHOR_NAME=Bench", "GIT_AUTHOR_EMAIL=bench@example.com", "GIT_COMMITTER_NAME=Bench", "GIT_COMMITTER_EMAIL=bench@example.com")
}

// Edited is the file that is edited: in the middle of the tree, six directories deep, where the others are two deep.
func (s Shape) Edited() string { return s.path(s.Files / 2) }

// Other is a file elsewhere, that somebody else edits.
func (s Shape) Other() string { return s.path(s.Files - 1) }

func (s Shape) path(number int) string {
	if number == s.Files/2 {
		return fmt.Sprintf("module%03d/package00/src/main/resources/messages/file%04d.txt", number/100, number)
	}
	return fmt.Sprintf("module%03d/package%02d/file%04d.txt", number/100, number/10%10, number)
}

// stream writes the history for git fast-import.
func (s Shape) stream(out io.Writer) error {
	buffered := bufio.NewWriterSize(out, 1<<20)
	random := rand.New(rand.NewPCG(1, 2)) // the same each time
	vocabulary := make([]string, 4000)
	for i := range vocabulary {
		vocabulary[i] = randomWord(random)
	}
	files := make([][]string, s.Files)
	for i := range files {
		files[i] = make([]string, s.Words/2+random.IntN(s.Words+1))
		for j := range files[i] {
			files[i][j] = vocabulary[random.IntN(len(vocabulary))]
		}
	}
	for commit := range s.Commits {
		when := 1_600_000_000 + commit*600
		message := fmt.Sprintf("commit %d", commit)
		fmt.Fprintf(buffered, "commit refs/heads/main\ncommitter Bench <bench@example.com> %d +0000\ndata %d\n%s\n", when, len(message), message)
		for i := range files {
			if commit == 0 {
				writeFile(buffered, s.path(i), files[i])
			}
		}
		for range s.Edits {
			i := random.IntN(len(files))
			start := random.IntN(len(files[i]))
			for j := start; j < min(start+s.Rewritten, len(files[i])); j++ {
				files[i][j] = vocabulary[random.IntN(len(vocabulary))]
			}
			writeFile(buffered, s.path(i), files[i])
		}
	}
	buffered.WriteString("done\n") //nolint:errcheck // Flush says it
	return buffered.Flush()
}

func writeFile(out *bufio.Writer, path string, words []string) {
	var content strings.Builder
	for i, word := range words {
		content.WriteString(word)
		if i%10 == 9 {
			content.WriteByte('\n')
		} else {
			content.WriteByte(' ')
		}
	}
	fmt.Fprintf(out, "M 100644 inline %s\ndata %d\n%s\n", path, content.Len(), content.String())
}

func randomWord(random *rand.Rand) string {
	word := make([]byte, 3+random.IntN(6))
	for i := range word {
		word[i] = byte('a' + random.IntN(26))
	}
	return string(word)
}
