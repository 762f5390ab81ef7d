// Package tipcache keeps, on a worker's disk, the git objects that the tips of repositories are made of, so that the next edit
// of a repository need not read them again.
//
// Everything in it may be lost at any time: a file that is gone, cut off or damaged is as good as one that was never
// written. The list of an entry's objects has a checksum, and each object is compared with its hash whenever it is read.
package tipcache

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Cache is a folder of entries, one for each repository of each installation. It may be used concurrently, and by several
// processes.
type Cache struct {
	folder string
	limit  int64

	mu   sync.Mutex
	held int64 // bytes, as far as this process knows
}

const (
	suffix    = ".tip"
	temporary = ".new-" // prefix
	abandoned = time.Hour
)

// Open makes the folder, readable by its owner alone, and takes over what is in it. limit is in bytes.
func Open(folder string, limit int64) (*Cache, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("tip cache: %w", err)
	}
	c := &Cache{folder: folder, limit: limit}
	return c, c.shrink()
}

// Key names an entry. No part of it can be read from the file's name.
type Key struct {
	Installation string // whose tokens read the repository; entries of others are never seen
	Repository   string // its URL
}

func (k Key) file() string {
	sum := sha256.Sum256([]byte(k.Installation + "\x00" + k.Repository))
	return filesOf(k.Installation) + hex.EncodeToString(sum[:]) + suffix
}

// filesOf is how the names of an installation's files begin.
func filesOf(installation string) string {
	sum := sha256.Sum256([]byte(installation))
	return hex.EncodeToString(sum[:8]) + "-"
}

// Load opens an entry; nil where there is none that can be read. The caller closes it.
func (c *Cache) Load(key Key) *Entry {
	name := filepath.Join(c.folder, key.file())
	file, err := os.Open(name)
	if err != nil {
		return nil
	}
	entry, err := readEntry(file)
	if err != nil {
		_ = file.Close() // only read
		c.Remove(key)
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(name, now, now) // the order of use; without it, that of writing
	return entry
}

// Remove forgets an entry.
func (c *Cache) Remove(key Key) {
	name := filepath.Join(c.folder, key.file())
	info, err := os.Stat(name)
	if err == nil && os.Remove(name) == nil {
		c.grow(-info.Size())
	}
}

// Forget removes every entry of an installation.
func (c *Cache) Forget(installation string) error {
	files, err := os.ReadDir(c.folder)
	if err != nil {
		return fmt.Errorf("tip cache: %w", err)
	}
	var errs []error
	for _, file := range files {
		if !strings.HasPrefix(file.Name(), filesOf(installation)) {
			continue
		}
		if err := os.Remove(filepath.Join(c.folder, file.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("tip cache: %w", err))
		}
	}
	return errors.Join(append(errs, c.shrink())...) // which counts again what is held
}

// Store replaces an entry by one of meta, the objects of old (which may be nil) that keep wants (all, if nil), and those of add.
// Objects of old that were found damaged are left out.
func (c *Cache) Store(key Key, meta []byte, old *Entry, keep func(ID) bool, add []Object) error {
	temp, err := os.CreateTemp(c.folder, temporary)
	if err != nil {
		return fmt.Errorf("tip cache: %w", err)
	}
	size, err := writeEntry(temp, meta, old, keep, add)
	if err = errors.Join(err, temp.Close()); err == nil && size > c.limit/2 {
		err = errors.New("the entry is larger than half of the cache")
	}
	name := filepath.Join(c.folder, key.file())
	before := int64(0)
	if info, statErr := os.Stat(name); statErr == nil {
		before = info.Size()
	}
	if err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("tip cache: %w", errors.Join(err, os.Remove(temp.Name())))
	}
	if c.grow(size-before) > c.limit {
		return c.shrink()
	}
	return nil
}

func (c *Cache) grow(bytes int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held += bytes
	return c.held
}

// shrink removes the entries that were used least recently until nine tenths of the limit are held, if more than the limit is;
// and what writers left that were killed.
func (c *Cache) shrink() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	files, err := os.ReadDir(c.folder)
	if err != nil {
		return fmt.Errorf("tip cache: %w", err)
	}
	var entries []fs.FileInfo
	c.held = 0
	for _, file := range files {
		info, err := file.Info()
		switch {
		case err != nil: // another process was quicker
		case strings.HasPrefix(file.Name(), temporary) && time.Since(info.ModTime()) > abandoned:
			err = os.Remove(filepath.Join(c.folder, file.Name()))
		case strings.HasSuffix(file.Name(), suffix):
			entries = append(entries, info)
			c.held += info.Size()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("tip cache: %w", err)
		}
	}
	if c.held <= c.limit {
		return nil
	}
	slices.SortFunc(entries, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, entry := range entries {
		if c.held <= c.limit/10*9 {
			break
		}
		if err := os.Remove(filepath.Join(c.folder, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("tip cache: %w", err)
		}
		c.held -= entry.Size()
	}
	return nil
}
