package doctor

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
)

// What a sandbox takes, in round figures: descriptors of the worker; processes
// and threads of the host, before a session starts any; and memory.
const (
	filesEach     = 32
	processesEach = 128
	memoryEach    = 64 << 20
)

// openFile is about what the kernel takes of a session's memory for an open file, in bytes.
const openFile = 256

// resources tells whether there is enough of everything for so many sandboxes.
func resources(sandboxes int, onHost *sandbox.Limits) []Finding {
	found := []Finding{openFiles(sandboxes), processes(sandboxes), memory(sandboxes)}
	if onHost != nil {
		found = append(found, filesOfAll(sandboxes, *onHost))
	}
	return found
}

// filesOfAll tells whether sessions could leave the rest of the host no files to open.
// Root is not held to that number.
func filesOfAll(sandboxes int, l sandbox.Limits) Finding {
	const name, fix = "files of all", "sudo sysctl fs.file-max=9223372036854775807"
	at := number("/proc/sys/fs/file-max")
	each := uint64(l.OpenFiles) * uint64(l.Processes)
	if l.MemoryBytes > 0 {
		each = min(each, uint64(l.MemoryBytes)/openFile)
	}
	if need := each * uint64(sandboxes); at < need {
		return warning(name, fix, "the host opens at most %d files at once (fs.file-max), and %d sandboxes may have some %d open", at, sandboxes, need)
	}
	return good(name, "at most %s (fs.file-max)", amount(at))
}

func openFiles(sandboxes int) Finding {
	const name, fix = "open files", "ulimit -Hn 65536, or LimitNOFILE=65536 in the worker's unit; or fewer --max-sessions"
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return warning(name, fix, "the limit cannot be read: %v", err)
	}
	const own, wanted = 256, 65536
	need := uint64(own + filesEach*sandboxes)
	switch {
	case limit.Max < need:
		return failure(name, fix, "at most %d, but %d sandboxes at once need some %d", limit.Max, sandboxes, need)
	case limit.Max < wanted:
		return warning(name, fix, "at most %d: enough for the worker, but a session may have no more either", limit.Max)
	}
	return good(name, "at most %s", amount(limit.Max))
}

// bound is a limit, what sets it and what would raise it.
type bound struct {
	at        uint64
	what, fix string
}

func processes(sandboxes int) Finding {
	bounds := []bound{
		{number("/proc/sys/kernel/pid_max"), "kernel.pid_max", "sudo sysctl kernel.pid_max=4194304"},
		{number("/proc/sys/kernel/threads-max"), "kernel.threads-max", "sudo sysctl kernel.threads-max=1000000"},
		ownGroup("pids", "pids.max", "TasksMax=infinity in the worker's unit"),
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &limit); err == nil && os.Getuid() != 0 {
		bounds = append(bounds, bound{limit.Max, "ulimit -u", "LimitNPROC=infinity in the worker's unit, or ulimit -Hu 65536"})
	}
	least := slices.MinFunc(bounds, func(a, b bound) int { return cmp.Compare(a.at, b.at) })
	const name = "processes"
	if need := uint64(processesEach * sandboxes); least.at < need {
		return warning(name, least.fix, "at most %d (%s), but %d sandboxes at once need some %d", least.at, least.what, sandboxes, need)
	}
	return good(name, "at most %s (%s)", amount(least.at), least.what)
}

func memory(sandboxes int) Finding {
	const name = "memory"
	bounds := []bound{
		{available(), "free on this host", "add memory, or serve fewer sessions: --max-sessions"},
		ownGroup("memory", "memory.max", "MemoryMax=infinity in the worker's unit, or fewer --max-sessions"),
		ownGroup("memory", "memory.limit_in_bytes", "MemoryMax=infinity in the worker's unit, or fewer --max-sessions"),
	}
	least := slices.MinFunc(bounds, func(a, b bound) int { return cmp.Compare(a.at, b.at) })
	if need := uint64(memoryEach) * uint64(sandboxes); least.at < need {
		return warning(name, least.fix, "%s (%s), but %d sandboxes at once need %s", size(least.at), least.what, sandboxes, size(need))
	}
	return good(name, "%s (%s)", size(least.at), least.what)
}

// available is how much memory is free or could be, in bytes.
func available() uint64 {
	raw, _ := os.ReadFile("/proc/meminfo") // this program does not start without /proc
	for line := range strings.Lines(string(raw)) {
		var kilobytes uint64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kilobytes); n == 1 {
			return kilobytes << 10
		}
	}
	return unlimited
}

const unlimited = math.MaxUint64

// ownGroup is what the control group we are in allows us.
func ownGroup(controller, file, fix string) bound {
	hierarchies := hierarchies()
	at := uint64(unlimited)
	for _, dir := range []string{hierarchies[controller], hierarchies[""]} {
		if dir != "" {
			at = min(at, number(filepath.Join(dir, file)))
		}
	}
	return bound{at, file + " of our control group", fix}
}

// number reads a file with a number; one without has no limit.
func number(path string) uint64 {
	raw, err := os.ReadFile(path)
	if err != nil {
		return unlimited
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return unlimited
	}
	return n
}

func amount(n uint64) string {
	if n >= math.MaxInt64 {
		return "as many as there may be"
	}
	return strconv.FormatUint(n, 10)
}

// size is a number of bytes, for people.
func size(bytes uint64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	n, unit := float64(bytes), 0
	for n >= 1024 && unit < len(units)-1 {
		n, unit = n/1024, unit+1
	}
	if unit == 0 || n >= 10 {
		return fmt.Sprintf("%.0f %s", n, units[unit])
	}
	return fmt.Sprintf("%.1f %s", n, units[unit])
}
