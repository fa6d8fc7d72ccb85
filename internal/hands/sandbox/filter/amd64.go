//go:build amd64

package filter

import "golang.org/x/sys/unix"

// deniedHere are those that only this kind of processor has.
var deniedHere = []uint32{unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT}
