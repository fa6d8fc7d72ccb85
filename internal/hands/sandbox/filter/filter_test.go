package filter

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// TestSockets asks the filter itself, for whether a kernel has a kind of socket
// depends on its modules.
func TestSockets(t *testing.T) {
	const other = 1 << 32 // in the half of a register that the kernel does not see
	vm, err := bpf.NewVM(program())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name                   string
		family, kind, protocol uint64
		want                   uint32
	}{
		{"unix", unix.AF_UNIX, unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK, 0, allowed},
		{"TCP", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP, allowed},
		{"MPTCP", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, allowed},
		{"UDP", unix.AF_INET6, unix.SOCK_DGRAM, 0, allowed},
		{"routes", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, allowed},
		{"packets", unix.AF_PACKET, unix.SOCK_RAW, 0, failing | uint32(unix.EAFNOSUPPORT)},
		{"packets by their old name", unix.AF_INET, unix.SOCK_PACKET, 0, failing | uint32(unix.EPROTONOSUPPORT)},
		{"PPP", unix.AF_PPPOX, unix.SOCK_STREAM, 0, failing | uint32(unix.EAFNOSUPPORT)},
		{"RxRPC", unix.AF_RXRPC, unix.SOCK_DGRAM, 0, failing | uint32(unix.EAFNOSUPPORT)},
		{"the last family", 45, unix.SOCK_DGRAM, 0, failing | uint32(unix.EAFNOSUPPORT)},
		{"the hypervisor", unix.AF_VSOCK | other, unix.SOCK_STREAM, 0, failing | uint32(unix.EAFNOSUPPORT)},
		{"SCTP", unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP, failing | uint32(unix.EPROTONOSUPPORT)},
		{"DCCP", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_DCCP | other, failing | uint32(unix.EPROTONOSUPPORT)},
		{"SMC", unix.AF_INET, unix.SOCK_STREAM, 256, failing | uint32(unix.EPROTONOSUPPORT)},
		{"netlink between processes", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_USERSOCK, failing | uint32(unix.EPROTONOSUPPORT)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, call := range []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR} {
				if got := ask(t, vm, call, c.family, c.kind, c.protocol); got != c.want {
					t.Errorf("call %d: %#x, want %#x", call, got, c.want)
				}
			}
		})
	}
	if got := ask(t, vm, unix.SYS_IO_SETUP, 1); got != failing|uint32(unix.ENOSYS) {
		t.Errorf("asynchronous input and output: %#x", got)
	}
	if got := ask(t, vm, unix.SYS_OPEN_TREE_ATTR, 0); got != failing|uint32(unix.EPERM) {
		t.Errorf("to open a tree with attributes: %#x", got)
	}
	for signal, want := range map[unix.Signal]uint32{unix.SIGKILL: failing | uint32(unix.EPERM), unix.SIGSTOP: failing | uint32(unix.EPERM), unix.SIGIO: allowed} {
		if got := ask(t, vm, unix.SYS_FCNTL, 3, unix.F_SETSIG, uint64(signal)); got != want {
			t.Errorf("to be sent %v: %#x", signal, got)
		}
	}
	if got := ask(t, vm, unix.SYS_FCNTL, 3, unix.F_SETFD, uint64(unix.SIGKILL)); got != allowed {
		t.Errorf("fcntl: %#x", got)
	}
	if got := ask(t, vm, unix.SYS_READ, 0); got != allowed {
		t.Errorf("to read: %#x", got)
	}
}

// ask runs the filter. Its numbers are in the order that the virtual machine reads.
func ask(t *testing.T, vm *bpf.VM, call uint32, arguments ...uint64) uint32 {
	t.Helper()
	data := binary.BigEndian.AppendUint32(nil, call)
	data = binary.BigEndian.AppendUint32(data, tables[runtime.GOARCH])
	data = append(data, make([]byte, 8)...) // the instruction
	for i := range 6 {
		var a uint64
		if i < len(arguments) {
			a = arguments[i]
		}
		// The filter looks at the half that comes first on a small-endian machine.
		data = binary.BigEndian.AppendUint32(data, uint32(a))
		data = binary.BigEndian.AppendUint32(data, uint32(a>>32))
	}
	answer, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(answer)
}
