package sandbox

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// queueShare is what part of its memory a sandbox may have wait in netlink sockets,
// one in so many; and queueEvery how often that is looked at, for it grows fast.
const (
	queueShare = 8
	queueEvery = 200 * time.Millisecond
)

// watchQueues ends a sandbox that leaves too much in netlink sockets: of all memory
// that a process can have the host's kernel take, this is counted by nobody.
func (p *Child) watchQueues() {
	for {
		select {
		case <-p.hand.Done():
			return
		case <-time.After(queueEvery):
		}
		if waiting(p.pid) > p.Spec.Limits.MemoryBytes/queueShare {
			p.flooded.Store(true)
			p.Process.Kill()
			return
		}
	}
}

// waiting is how many bytes wait in the netlink sockets of a process's network.
func waiting(pid int) (bytes int64) {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", pid)) // it may have ended
	for line := range strings.Lines(string(raw)) {
		// sk, Eth, Pid, Groups, Rmem; the first line names them.
		if fields := strings.Fields(line); len(fields) > 4 {
			n, _ := strconv.ParseInt(fields[4], 10, 64)
			bytes += n
		}
	}
	return bytes
}
