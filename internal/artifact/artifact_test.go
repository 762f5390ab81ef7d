package artifact_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/artifact"
	"github.com/gitsmith/gitsmith/internal/fault"
)

func TestMain(m *testing.M) {
	if address := os.Getenv("ARTIFACT_TEST_CRASH"); address != "" {
		crash(address)
	}
	goleak.VerifyTestMain(m)
}

// each runs a test on every kind of store. dir is the directory of a file store, empty for others.
func each(t *testing.T, test func(t *testing.T, store *artifact.Store, dir string)) {
	t.Helper()
	for _, kind := range []string{"file", "mem"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			address, dir := "mem://", ""
			if kind == "file" {
				dir = filepath.Join(t.TempDir(), "made", "by open")
				address = "file://" + strings.ReplaceAll(dir, " ", "%20")
			}
			test(t, open(t, address), dir)
		})
	}
}

func open(t *testing.T, address string) *artifact.Store {
	t.Helper()
	store, err := artifact.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func text(content string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, content)
		return err
	}
}

func get(t *testing.T, store *artifact.Store, key string) string {
	t.Helper()
	reader, size, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	content, err := io.ReadAll(reader)
	if err != nil || int64(len(content)) != size {
		t.Fatalf("%d bytes of %d: %v", len(content), size, err)
	}
	return string(content)
}

// tree lists the files below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestPutAndGet(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, store *artifact.Store, dir string) {
		large := strings.Repeat("0123456789abcdef", 1<<16)
		for _, content := range []string{"", "x", large, "replaced"} {
			written, err := store.Put(t.Context(), "a1/job.tar.gz", func(w io.Writer) error {
				for rest := content; rest != ""; rest = rest[min(len(rest), 1000):] {
					if _, err := io.WriteString(w, rest[:min(len(rest), 1000)]); err != nil {
						return err
					}
				}
				return nil
			})
			sum := sha256.Sum256([]byte(content))
			if want := (artifact.Written{Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}); err != nil || written != want {
				t.Fatalf("%+v, %v, want %+v", written, err, want)
			}
			if got := get(t, store, "a1/job.tar.gz"); got != content {
				t.Fatalf("%d bytes are not what was put", len(got))
			}
		}
		if dir == "" {
			return
		}
		if names := tree(t, dir); len(names) != 1 {
			t.Errorf("beside the artifact there is %v", names)
		}
		for _, folder := range []string{dir, filepath.Join(dir, "a1")} {
			if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s has mode %v: %v", folder, info.Mode(), err)
			}
		}
	})
}

func TestNothingIsKeptOnError(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, store *artifact.Store, dir string) {
		failure := errors.New("the archive cannot be made")
		stop := errors.New("stop")
		if _, err := store.Put(t.Context(), "old", text("old")); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"new", "old"} {
			for _, size := range []int{0, 10, 1 << 20} {
				_, err := store.Put(t.Context(), key, func(w io.Writer) error {
					if _, err := w.Write(make([]byte, size)); err != nil {
						t.Error(err)
					}
					return failure
				})
				if !errors.Is(err, failure) {
					t.Errorf("%s, %d bytes: %v", key, size, err)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				_, err = store.Put(ctx, key, func(w io.Writer) error {
					_, err := w.Write(make([]byte, size))
					cancel(stop)
					return err
				})
				if !errors.Is(err, stop) {
					t.Errorf("%s, %d bytes, context: %v", key, size, err)
				}
				if _, err := store.Put(ctx, key, text("x")); !errors.Is(err, stop) {
					t.Errorf("%s: an ended context: %v", key, err)
				}
			}
			func() {
				defer func() { _ = recover() }()
				_, _ = store.Put(t.Context(), key, func(io.Writer) error { panic("in the middle") })
			}()
		}
		// A writer that does not look learns of the end by its next write.
		ctx, cancel := context.WithCancelCause(t.Context())
		cancelled := false
		_, err := store.Put(ctx, "new", func(w io.Writer) error {
			for range 1000 {
				if _, err := w.Write(make([]byte, 100<<10)); err != nil {
					cancelled = true
					return err
				}
				cancel(stop)
			}
			return nil
		})
		if !errors.Is(err, stop) || !cancelled {
			t.Errorf("%v", err)
		}
		if _, _, err := store.Get(t.Context(), "new"); fault.KindOf(err) != fault.NotFound {
			t.Errorf("something was kept: %v", err)
		}
		if got := get(t, store, "old"); got != "old" {
			t.Errorf("what was there is %q now", got)
		}
		if dir != "" {
			if names := tree(t, dir); len(names) != 1 {
				t.Errorf("left behind: %v", names)
			}
		}
	})
}

func TestNothingIsSeenBeforeItIsComplete(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, store *artifact.Store, _ string) {
		_, err := store.Put(t.Context(), "a", func(w io.Writer) error {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
			if _, _, err := store.Get(t.Context(), "a"); fault.KindOf(err) != fault.NotFound {
				t.Errorf("half of it is there: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		reader, _, err := store.Get(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if err := store.Delete(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		if content, err := io.ReadAll(reader); err != nil || len(content) != 1<<20 {
			t.Errorf("what is deleted is read to %d bytes: %v", len(content), err)
		}
	})
}

func TestDelete(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, store *artifact.Store, _ string) {
		if _, err := store.Put(t.Context(), "a/b", text("x")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := store.Delete(t.Context(), "a/b"); err != nil {
				t.Error(err)
			}
		}
		if _, _, err := store.Get(t.Context(), "a/b"); fault.KindOf(err) != fault.NotFound {
			t.Error(err)
		}
		if _, _, err := store.Get(t.Context(), "a"); fault.KindOf(err) != fault.NotFound {
			t.Errorf("a directory: %v", err)
		}
	})
}

func TestKeys(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, store *artifact.Store, _ string) {
		for _, key := range []string{"", "/a", "a/", "a//b", "..", "../a", "a/../b", ".a", "a/.b", "a b", "a\x00", `a\b`, "ä", "a.tmp", "a/b.attrs", strings.Repeat("a", 201), "-a"} {
			_, err := store.Put(t.Context(), key, func(io.Writer) error {
				t.Errorf("%q is written to", key)
				return nil
			})
			_, _, getErr := store.Get(t.Context(), key)
			for _, err := range []error{err, getErr, store.Delete(t.Context(), key)} {
				if err == nil || fault.KindOf(err) != fault.Internal {
					t.Errorf("%q: %v", key, err)
				}
			}
		}
		for _, key := range []string{"a", "0f/019a.tar.gz", "A_b-c.zip"} {
			if _, err := store.Put(t.Context(), key, text(key)); err != nil {
				t.Errorf("%q: %v", key, err)
			}
		}
	})
}

func TestConcurrency(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, store *artifact.Store, dir string) {
		var group sync.WaitGroup
		for writer := range 8 {
			group.Go(func() {
				for round := range 20 {
					content := strings.Repeat(fmt.Sprint(writer), 1000+round)
					for _, key := range []string{"shared", fmt.Sprintf("own/%d", writer)} {
						if _, err := store.Put(t.Context(), key, text(content)); err != nil {
							t.Error(err)
						}
					}
					got := get(t, store, "shared")
					if strings.Trim(got, got[:1]) != "" {
						t.Error("two writers' texts are mixed")
					}
					if _, err := store.Sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		if dir != "" {
			if names := tree(t, dir); len(names) != 9 {
				t.Errorf("%v", names)
			}
		}
	})
}

func TestSweep(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, store *artifact.Store, dir string) {
		for i := range 2500 { // more than a page of the listing
			if _, err := store.Put(t.Context(), fmt.Sprintf("d%d/%d", i%7, i), text("x")); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := store.Sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil || n != 0 {
			t.Errorf("%d are gone too early: %v", n, err)
		}
		if dir != "" {
			old := time.Now().Add(-2 * time.Hour)
			for _, name := range []string{"d0/0", "d1/1"} {
				if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := store.Sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil || n != 2 {
				t.Errorf("%d instead of the 2 old ones: %v", n, err)
			}
			for _, name := range []string{"d0/0", "d1/1"} {
				if _, err := store.Put(t.Context(), name, text("x")); err != nil {
					t.Fatal(err)
				}
			}
		}
		var group sync.WaitGroup
		counts := make([]int, 4)
		for i := range counts {
			group.Go(func() {
				n, err := store.Sweep(t.Context(), time.Now().Add(time.Hour))
				if counts[i] = n; err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if total := counts[0] + counts[1] + counts[2] + counts[3]; total != 2500 {
			t.Errorf("four sweeps at once count %v", counts)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := store.Sweep(ctx, time.Now()); !errors.Is(err, context.Canceled) {
			t.Errorf("an ended context: %v", err)
		}
	})
}

// crash puts half an artifact and ends the process.
func crash(address string) {
	store, err := artifact.Open(context.Background(), address)
	if err != nil {
		panic(err)
	}
	_, err = store.Put(context.Background(), "a/job.zip", func(w io.Writer) error {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			return err
		}
		os.Exit(7)
		return nil
	})
	panic(err)
}

// What a process that died has left is seen by nobody and swept after an hour.
func TestSweepAfterACrash(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), "ARTIFACT_TEST_CRASH=file://"+dir, "TMPDIR="+elsewhere)
	var exit *exec.ExitError
	if out, err := command.CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("%v: %s", err, out)
	}
	if names := tree(t, elsewhere); len(names) != 0 {
		t.Errorf("temporary files are elsewhere: %v", names)
	}
	names := tree(t, dir)
	if len(names) != 1 || !strings.HasSuffix(names[0], ".tmp") {
		t.Fatalf("the crash left %v", names)
	}
	store := open(t, "file://"+dir)
	if _, _, err := store.Get(t.Context(), "a/job.zip"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("half an artifact is there: %v", err)
	}
	if _, _, err := store.Get(t.Context(), names[0]); err == nil {
		t.Error("half an artifact can be read by its temporary name")
	}
	if n, err := store.Sweep(t.Context(), time.Now().Add(time.Minute)); err != nil || n != 0 {
		t.Errorf("a file that may have a writer is gone: %d, %v", n, err)
	}
	old := time.Now().Add(-61 * time.Minute)
	if err := os.Chtimes(filepath.Join(dir, names[0]), old, old); err != nil {
		t.Fatal(err)
	}
	if n, err := store.Sweep(t.Context(), time.Now().Add(-24*time.Hour)); err != nil || n != 1 || len(tree(t, dir)) != 0 {
		t.Errorf("swept %d, left %v: %v", n, tree(t, dir), err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for address, says := range map[string]string{
		"s3://bucket": `file:///a/directory or mem:// (for tests), not in "s3://"`, "gs://bucket": "not in", "": "not in", "/var/lib": "not in", "mem://x": "not in",
		"file://":                      "names no directory",
		"file:///":                     "names no directory",
		"file://data/artifacts":        "three slashes",
		"file:///a?secret=1":           "secret",
		"file://" + file:               "not a directory",
		"file://" + file + "/below":    "not a directory",
		"file:///a\x7f":                "no URL",
		"https://user:canary@host/one": "not in",
	} {
		store, err := artifact.Open(t.Context(), address)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", address, err)
		}
		if store != nil {
			t.Errorf("%q gives a store", address)
		}
	}
}

// A store whose directory has gone or cannot be written to is away for now.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	store := open(t, "file://"+dir)
	if err := errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err := store.Put(t.Context(), "a/b", text("x"))
	if fault.KindOf(err) != fault.Unavailable || bytes.Contains([]byte(fault.Public(err)), []byte(dir)) {
		t.Errorf("%v", err)
	}
}
