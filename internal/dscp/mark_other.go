//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package dscp

// Mark does nothing here.
func (c Class) Mark(uintptr, string) {}
