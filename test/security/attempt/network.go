package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// network are attempts to reach what is outside, and the sockets by which the
// kernel or other machines may be spoken to.
var network = []try{
	plain("packet socket", true, func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }),
	plain("raw socket", true, func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }),
	plain("raw IPv6 socket", true, func() error { return socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6) }),
	plain("socket to the hypervisor", false, func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }),
	plain("socket to the kernel's ciphers", false, func() error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) }),
	plain("key socket", false, func() error { return socket(unix.AF_KEY, unix.SOCK_RAW, 2) }),
	plain("sockets of rare families", false, rareFamilies),
	plain("sockets of rare families by the upper half of a register", true, func() error {
		const above = 1 << 32 // which the kernel does not look at
		var failed error
		for _, family := range []uintptr{unix.AF_PACKET, unix.AF_VSOCK, unix.AF_ALG, unix.AF_XDP, unix.AF_KEY} {
			for _, kind := range []uintptr{unix.SOCK_STREAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
				err := call(unix.SYS_SOCKET, family|above, kind, 0)
				if err == nil {
					return nil
				}
				failed = err
			}
		}
		return failed
	}),
	plain("packet socket by its old name", true, func() error { return socket(unix.AF_INET, unix.SOCK_PACKET, 0x0300 /* ETH_P_ALL */) }),
	plain("sockets of rare protocols", false, func() error {
		var failed error
		for _, protocol := range []int{unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_L2TP, 256 /* IPPROTO_SMC */} {
			for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET, 6 /* SOCK_DCCP */} {
				if failed = socket(unix.AF_INET, kind, protocol); failed == nil {
					return nil
				}
			}
		}
		return failed
	}),
	plain("write to another process by netlink", true, func() error {
		to, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_USERSOCK)
		if err == nil {
			err = unix.Bind(to, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: 1234})
		}
		if err != nil {
			return err
		}
		from, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_USERSOCK)
		if err != nil {
			return err
		}
		return unix.Sendto(from, []byte("memory that is nobody's"), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: 1234})
	}),
	plain("add a network link", true, addLink),
	plain("give an interface an address", true, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		if err := request.SetInet4Addr([]byte{10, 11, 12, 13}); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, request)
	}),
	plain("find another interface", false, func() error {
		all, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, i := range all {
			if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
				return nil
			}
		}
		return fmt.Errorf("there is none among %d", len(all))
	}),
	plain("dial the metadata service", false, func() error { return dial("tcp", "169.254.169.254:80") }),
	plain("dial the metadata service by IPv6", false, func() error { return dial("tcp", "[fd00:ec2::254]:80") }),
	plain("dial a link-local neighbour", false, func() error { return dial("tcp", "169.254.1.1:80") }),
	plain("dial a private network", false, func() error { return dial("tcp", "10.0.0.1:80") }),
	plain("dial the internet", false, func() error { return dial("tcp", "1.1.1.1:443") }),
	plain("dial the internet by IPv6", false, func() error { return dial("tcp", "[2606:4700:4700::1111]:443") }),
	plain("send to everybody", false, func() error { return send("255.255.255.255:67") }),
	plain("send to a group", false, func() error { return send("224.0.0.251:5353") }),
	plain("ask a name server", false, func() error { return ask("1.1.1.1:53") }),
	{"dial", false, func(args []string) error { return dial(args[0], args[1]) }},
	{"ask", false, func(args []string) error { return ask(args[0]) }},
}

// rareFamilies looks for kinds of socket that a program in a sandbox has no use
// for, and that were ways into kernels before.
func rareFamilies() error {
	usual := []int{unix.AF_UNSPEC, unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
	for family := range 46 {
		if slices.Contains(usual, family) {
			continue
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			if socket(family, kind, 0) == nil {
				fmt.Println("a socket of family", family, "and kind", kind)
				return nil
			}
		}
	}
	return errNothing
}

func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func dial(kind, address string) error {
	c, err := net.DialTimeout(kind, address, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

func send(address string) error {
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err
}

// ask sends a query for the root and waits for an answer.
func ask(server string) error {
	c, err := net.DialTimeout("udp", server, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	query := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	if _, err := c.Write(query); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 512))
	return err
}

// addLink asks the kernel for a link, of a kind that it may know.
func addLink() error {
	var failed error
	for _, kind := range []string{"dummy", "bridge", "veth", "vxlan"} {
		err := addLinkOf(kind)
		if err == nil {
			return nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", kind, err))
	}
	return failed
}

func addLinkOf(name string) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	padded := append([]byte(name), make([]byte, 8-len(name))...)
	kind := append([]byte{byte(4 + len(name)), 0, 1, 0}, padded...) // IFLA_INFO_KIND
	info := append([]byte{byte(len(kind) + 4), 0, 18, 0}, kind...)  // IFLA_LINKINFO
	body := append(make([]byte, 16), info...)
	message := append([]byte{byte(16 + len(body)), 0, 0, 0, unix.RTM_NEWLINK, 0, 0x05, 0x06, 1, 0, 0, 0, 0, 0, 0, 0}, body...)
	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	reply := make([]byte, 256)
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return err
	}
	if n < 20 {
		return errNothing
	}
	if code := *(*int32)(unsafe.Pointer(&reply[16])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
