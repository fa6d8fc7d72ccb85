package security

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hearth/internal/hands/sandbox"
)

// small are limits that are reached soon.
var small = sandbox.Limits{MemoryBytes: 256 << 20, CPUs: 0.5, Processes: 100, OpenFiles: 256, DiskBytes: 64 << 20}

// TestExhaustion takes all there is of everything. The sandbox may be ended for
// it; its neighbour and the host must not notice.
func TestExhaustion(t *testing.T) {
	t.Parallel()
	everyDay := []string{"processes", "memory", "disk", "output", "open files"}
	attempts := []struct{ name, needs, command string }{
		{"processes", "processes", "f() { f | f & }; f"},
		{"processes that do nothing", "processes", "for i in $(seq 500); do sleep 5 & done; wait"},
		{"the dead", "processes", "perl -e 'for (1..2000) { last unless defined($p = fork); exit unless $p } sleep 2'"},
		{"threads", "processes", "seq 1000 | xargs -P 1000 -n 1 sh -c 'sleep 2'"},
		{"memory", "memory", "head -c 1G /dev/zero | tail | wc -c"},
		{"memory by shared memory", "memory", "head -c 1G /dev/zero >/dev/shm/big"},
		{"memory by files", "memory", "for i in $(seq 8); do head -c 100M /dev/zero | tail >/dev/null & done; wait"},
		{"disk", "", "head -c 500M /dev/zero >big; sleep 1"},
		{"disk by scratch", "", "head -c 500M /dev/zero >/tmp/big; head -c 500M /dev/zero >/var/big; sleep 1"},
		{"files", "", "mkdir many; for i in $(seq 20000); do : >many/$i; done"},
		{"open files", "", "for i in $(seq 10 1000); do eval \"exec $i</dev/null\" || break; done 2>/dev/null; true"},
		{"pipes", "", "perl -e 'for (1..1000) { pipe(my $r, my $w) or last; push @a, $r, $w; syswrite($w, \"x\" x 65536) }'"},
		{"the processor", "CPU", "for i in 1 2 3 4; do timeout 2 bash -c 'while :; do :; done' & done; wait"},
		{"output", "", "timeout 3 yes"},
		{"errors", "", "timeout 3 yes >&2"},
		{"directories", "", "perl -e 'for (1..3000) { mkdir \"d\" or last; chdir \"d\" or last }'"},
		{"sockets", "", "perl -MSocket -e 'for (1..2000) { socket(my $s, AF_UNIX, SOCK_STREAM, 0) or last; push @a, $s }'"},
	}
	lacks := groups().Lacks()
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			for _, a := range attempts {
				t.Run(a.name, func(t *testing.T) {
					if a.needs != "" && slices.Contains(lacks, a.needs) {
						t.Skipf("this host's control groups do not let us limit %s", a.needs)
					}
					if os.Getenv("HEARTH_TEST_ALL") == "" && !slices.Contains(everyDay, a.name) {
						t.Skip("not tried every day: set HEARTH_TEST_ALL=1")
					}
					p := imprison(t, engine, small)
					neighbour := p.another(small, filepath.Join(p.dir, "neighbour"))
					exhaust(t, p, a.command)
					p.fine(t, neighbour)
				})
			}
		})
	}
}

// exhaust runs a command that may cost the sandbox its life.
func exhaust(t *testing.T, p *prisoner, command string) {
	t.Helper()
	result, err := call1(t, p, command)
	if err != nil && !strings.Contains(err.Error(), "gone") && !strings.Contains(err.Error(), "limit") {
		t.Errorf("the sandbox ended with %v", err)
	}
	if len(result) > 1<<20 {
		t.Errorf("%d bytes of output reached the worker", len(result))
	}
}
