package security

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// given are attempts that need to be told of what, and so have tests of their
// own.
var given = []string{"climb above the root", "open a file by its handle", "kill a process of the host", "dial", "ask"}

// harmless are attempts that succeed in an engine, and why nothing comes of it.
var harmless = map[string]map[string]string{"gvisor": {
	"have most terminals there are":          "they are the guest's kernel's own",
	"be spared when memory is short":         "the guest's kernel notes it; the host's has the guest as a whole",
	"memory of sockets":                      "it is the guest's kernel's, which the control group bounds",
	"have more of the processor than others": "the guest's kernel notes it, and schedules no different; the host's knows nothing of it",
}, "docker": {
	"have most terminals there are": "it is the daemon that mounts them, and bounds nobody",
}}

// testCalls makes each of the calls by which walls could be moved, others be
// looked into, or the machine be changed.
func testCalls(t *testing.T, p *prisoner) {
	list, err := exec.Command(os.Getenv(attemptName)).Output()
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, name := range given {
		told[name] = true
	}
	for line := range strings.Lines(string(list)) {
		name, host, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if told[name] {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if host == "true" {
				onHost(t, apart(), name)
			}
			if reason := harmless[p.engine.Name()][name]; reason != "" {
				t.Skip(reason)
			}
			p.attempt(t, name)
		})
	}
	dir := openDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"climb above the root", "open a file by its handle"} {
		t.Run(name, func(t *testing.T) { p.attempt(t, name, file) })
	}
	t.Run("kill a process of the host", func(t *testing.T) {
		victim := exec.Command("sleep", "600")
		victim.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = victim.Wait(); close(ended) }()
		for _, pid := range []int{victim.Process.Pid, os.Getpid()} {
			p.sh(t, "./attempt 'kill a process of the host' "+strconv.Itoa(pid))
		}
		p.sh(t, "kill -9 -1")
		select {
		case <-ended:
			t.Error("it was killed")
		default:
		}
		// That it can be noticed: the host itself kills it.
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-ended
	})
}

// door is a server on the host. Whoever finds it open has escaped.
type door struct {
	name string
	// attempts are arguments of attempts to get through.
	attempts [][]string
}

// doors opens them.
func doors(t *testing.T) []door {
	t.Helper()
	var all []door
	open := func(name, kind, address string) net.Listener {
		l, err := net.Listen(kind, address)
		if err != nil {
			t.Logf("%s: %v", name, err) // no IPv6 here, perhaps
			return nil
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		all = append(all, door{name, [][]string{{"dial", kind, l.Addr().String()}}})
		return l
	}
	loopback := open("a port of the host's loopback", "tcp", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(loopback.Addr().String())
	last := &all[len(all)-1]
	last.attempts = append(last.attempts, []string{"dial", "tcp", "localhost:" + port}, []string{"dial", "tcp", "0.0.0.0:" + port})
	open("a port of the host's loopback by IPv6", "tcp", "[::1]:0")
	if address := ownAddress(); address != "" {
		open("a port of the host's own address", "tcp", net.JoinHostPort(address, "0"))
	}
	socket := filepath.Join(openDir(t), "engine.sock")
	open("a socket of the host, as Docker has one", "unix", socket)
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	last = &all[len(all)-1]
	last.attempts = append(last.attempts, []string{"dial", "unix", "/proc/1/root" + socket}, []string{"dial", "unix", "../../../../.." + socket})
	open("an abstract socket of the host", "unix", "@hearth-"+newID())
	all = append(all, door{"a name server of the host", [][]string{{"ask", nameServer(t)}}})
	return all
}

// ownAddress is an address of this host by which others know it; "" for none.
func ownAddress() string {
	addresses, _ := net.InterfaceAddrs() // none is none
	for _, a := range addresses {
		if in, ok := a.(*net.IPNet); ok && in.IP.IsGlobalUnicast() && in.IP.To4() != nil {
			return in.IP.String()
		}
	}
	return ""
}

// nameServer answers every question with itself.
func nameServer(t *testing.T) (address string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		question := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(question)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(question[:n], from) // who asks too little will ask again
		}
	}()
	return c.LocalAddr().String()
}

// testDoors tries servers of the host, by all the names they have.
func testDoors(t *testing.T, p *prisoner) {
	for _, d := range doors(t) {
		t.Run(d.name, func(t *testing.T) {
			onHost(t, nil, d.attempts[0]...)
			for _, args := range d.attempts {
				p.attempt(t, args...)
			}
		})
	}
	t.Run("a port of the sandbox, seen from the host", func(t *testing.T) {
		p.do(t, "(./attempt hoard ports >ports) & until grep -q holds ports; do sleep 0.02; done")
		ports := p.do(t, "tail -n +2 /proc/net/tcp | head -1 | sed 's/.*00000000:\\([0-9A-F]*\\) 00.*/\\1/'; pkill -f 'attempt hoard' || kill $!")
		port, err := strconv.ParseUint(strings.Fields(ports)[0], 16, 16)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.FormatUint(port, 10), time.Second); err == nil {
			c.Close()
			t.Error("the host can be lured to a port of the sandbox")
		}
	})
}
