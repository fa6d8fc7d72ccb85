package hand

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ended is the pid of a child that has ended and not been waited for, 0 when
// there is none. The child stays as it is.
func ended() int {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil || info.Signo == 0 {
		return 0
	}
	// The kernel puts the pid behind the three leading numbers, aligned as a
	// pointer is; see siginfo_t in <bits/types/siginfo_t.h>.
	const pidOffset = 16
	return int(*(*int32)(unsafe.Pointer(uintptr(unsafe.Pointer(&info)) + pidOffset)))
}
