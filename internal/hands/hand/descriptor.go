package hand

import (
	"errors"
	"os"
)

// WithDescriptor calls fn with the descriptor of a file that is open, and stays so
// meanwhile. It leaves the file as it is, where File.Fd makes it block.
func WithDescriptor(file *os.File, fn func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = fn(int(fd)) })
	return errors.Join(err, failed)
}
