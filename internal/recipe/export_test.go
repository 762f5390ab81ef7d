//go:build linux

package recipe

import "syscall"

// WithoutNamespaces is the book as it is where the kernel refuses them. show must be called at its end: what is hidden can make
// no namespaces of users.
func (b *Book) WithoutNamespaces() (bare *Book, show func(), err error) {
	show = func() { _, _, _ = syscall.RawSyscall6(syscall.SYS_PRCTL, prSetDumpable, 1, 0, 0, 0, 0) }
	return &Book{recipes: b.recipes}, show, hide()
}

// Namespaces reports whether the kernel here gives any.
func (b *Book) Namespaces() bool { return b.confinement.namespaces }
