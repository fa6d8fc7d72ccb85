package namespace

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox/cgroup"
)

// network is a network namespace with nothing but its own loopback. It takes the
// kernel longest to make of all that a sandbox has of its own, so the launcher has
// one ahead where it may: as root. It then belongs to root of the host, and nobody
// in the sandbox can change it.
type network struct {
	file *os.File
	err  error
}

// makeNetworks makes one after the other, each when the one before is taken.
func makeNetworks() <-chan network {
	made := make(chan network)
	go func() {
		for {
			var n network
			n.err = cgroup.OnThread(func() (err error) { n.file, err = newNetwork(); return err })
			made <- n
		}
	}()
	return made
}

// newNetwork makes one, and leaves the calling thread in it.
func newNetwork() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare the network namespace: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("bring up the loopback: %w", err)
	}
	// The sandbox's root is nobody to this namespace, and may listen at any port all
	// the same.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil {
		return nil, fmt.Errorf("free the low ports: %w", err)
	}
	return os.Open("/proc/thread-self/ns/net")
}

// enter puts the calling thread into the namespace.
func (n network) enter() error {
	if n.err != nil {
		return n.err
	}
	defer n.file.Close()
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return nil
}

// loopbackUp switches on the one network interface there is.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
