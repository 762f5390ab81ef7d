package gitrepo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// scratch is a process's own folder below the temporary one. A lock on a file beside it says that the process lives: the
// kernel drops the lock with the process, however that ended, and the next one to start removes the folder.
type scratch struct {
	folder string
	lock   *os.File
}

const lockSuffix = ".lock"

func openScratch(base string) (*scratch, error) {
	if base == "" {
		return nil, errors.New("gitrepo: no folder for temporary files is given")
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, fmt.Errorf("gitrepo: folder for temporary files: %w", err)
	}
	if err := removeDead(base); err != nil {
		return nil, fmt.Errorf("gitrepo: what a dead process left cannot be removed: %w", err)
	}
	lock, err := os.CreateTemp(base, "worker-*"+lockSuffix)
	if err != nil {
		return nil, fmt.Errorf("gitrepo: folder for temporary files: %w", err)
	}
	s := &scratch{folder: lock.Name()[:len(lock.Name())-len(lockSuffix)], lock: lock}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Mkdir(s.folder, 0o700)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("gitrepo: folder for temporary files: %w", err), s.close())
	}
	return s, nil
}

// make makes a folder for one snapshot.
func (s *scratch) make() (string, error) { return os.MkdirTemp(s.folder, "pack-") }

func (s *scratch) close() error {
	return errors.Join(os.RemoveAll(s.folder), os.Remove(s.lock.Name()), s.lock.Close())
}

// removeDead removes the folders whose lock nobody holds.
func removeDead(base string) error {
	locks, err := filepath.Glob(filepath.Join(base, "worker-*"+lockSuffix))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range locks {
		lock, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // another process was quicker
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		dead := scratch{folder: name[:len(name)-len(lockSuffix)], lock: lock}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			errs = append(errs, lock.Close())
			continue
		}
		if err := dead.close(); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
