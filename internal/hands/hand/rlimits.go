package hand

import (
	"errors"

	"golang.org/x/sys/unix"
)

// LimitFiles bounds how many files this process and each that it starts may have
// open, as far as it is allowed to that many itself, and has none leave a core.
func LimitFiles(most uint64) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return err
	}
	most = min(most, have.Max)
	return errors.Join(
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}),
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}),
	)
}
