package main

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
)

// defaultLimits bound a sandbox that is given no limits.
var defaultLimits = sandbox.Limits{MemoryBytes: 2 << 30, Processes: 4096, OpenFiles: 65536, DiskBytes: 10 << 30}

// limitFlags bound what sandboxes use.
type limitFlags struct {
	limits sandbox.Limits
	given  []agentLimit
	agents map[string]sandbox.Limits // by agent id, once checked
}

// agentLimit is what --agent-limits says of an agent.
type agentLimit struct{ agent, list string }

func (l *limitFlags) register(flags *pflag.FlagSet) {
	l.limits = defaultLimits
	flags.Var((*byteSize)(&l.limits.MemoryBytes), "memory", "how much memory a sandbox may use; 0 for no limit")
	flags.Float64Var(&l.limits.CPUs, "cpus", 0, "how many processors' time a sandbox may use, for example 0.5; 0 for no limit")
	flags.IntVar(&l.limits.Processes, "processes", l.limits.Processes, "how many processes a sandbox may have")
	flags.IntVar(&l.limits.OpenFiles, "open-files", l.limits.OpenFiles, "how many files each process in a sandbox may have open")
	flags.Var((*byteSize)(&l.limits.DiskBytes), "disk", "how much a session's files may take, scratch files included; 0 for no limit")
	flags.Var((*agentLimits)(l), "agent-limits", "other limits for one agent's sessions, as AGENT=memory:4GiB,cpus:2,processes:100,open-files:1000,disk:50GiB; may be repeated, or hold several with ; between them")
}

// byteSize is a flag like 512MiB.
type byteSize int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func (b *byteSize) String() string {
	for _, unit := range sizeUnits {
		if n := int64(*b); n >= unit.bytes && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

func (b *byteSize) Type() string { return "size" }

func (b *byteSize) Set(text string) error {
	number, factor := text, int64(1)
	for _, unit := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, unit.name); ok {
			number, factor = rest, unit.bytes
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0 && n*float64(factor) <= 1<<60) { // NaN is neither
		return fmt.Errorf("not a size such as 512MiB or 2GiB")
	}
	*b = byteSize(n * float64(factor))
	return nil
}

// agentLimits is the flag of the limits of single agents.
type agentLimits limitFlags

func (a *agentLimits) String() string {
	var all []string
	for _, g := range a.given {
		all = append(all, g.agent+"="+g.list)
	}
	return strings.Join(all, ";")
}

func (a *agentLimits) Type() string { return "limits" }

// Set only looks whether the text can be understood: the limits that it is about
// may be on the rest of the command line.
func (a *agentLimits) Set(text string) error {
	for one := range strings.SplitSeq(text, ";") {
		agent, list, ok := strings.Cut(strings.TrimSpace(one), "=")
		if !ok || !strings.HasPrefix(agent, "agent_") {
			return fmt.Errorf("want AGENT=NAME:VALUE,…, with an agent's id")
		}
		if _, err := replaced(a.limits, list); err != nil {
			return err
		}
		a.given = append(a.given, agentLimit{agent, list})
	}
	return nil
}

// replaced are limits with those of a list, as memory:4GiB,cpus:2, in their place.
func replaced(limits sandbox.Limits, list string) (sandbox.Limits, error) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	l := limitFlags{}
	l.register(flags)
	l.limits = limits
	for item := range strings.SplitSeq(list, ",") {
		name, value, ok := strings.Cut(item, ":")
		if !ok || name == "agent-limits" || flags.Lookup(name) == nil {
			return limits, fmt.Errorf("%q is not one of memory, cpus, processes, open-files, disk with a value", item)
		}
		if err := flags.Set(name, value); err != nil {
			return limits, err
		}
	}
	return l.limits, nil
}

func (l *limitFlags) check() error {
	if err := checkLimits("--", l.limits); err != nil {
		return err
	}
	l.agents = map[string]sandbox.Limits{}
	for _, g := range l.given {
		limits, ok := l.agents[g.agent]
		if !ok {
			limits = l.limits
		}
		limits, err := replaced(limits, g.list)
		if err != nil {
			return usageError("--agent-limits: %w", err)
		}
		if err := checkLimits("--agent-limits "+g.agent+"=", limits); err != nil {
			return err
		}
		l.agents[g.agent] = limits
	}
	return nil
}

// checkLimits refuses limits that nothing could run under. Prefix comes before the
// name of one in the error.
func checkLimits(prefix string, limits sandbox.Limits) error {
	for _, c := range []struct {
		flag string
		bad  bool
		want string
	}{
		{"memory", limits.MemoryBytes > 0 && limits.MemoryBytes < 64<<20, "at least 64MiB"},
		{"cpus", limits.CPUs != 0 && !(limits.CPUs >= 0.01 && limits.CPUs <= 1e6), "at least 0.01"},
		{"processes", limits.Processes < 16, "at least 16"},
		{"open-files", limits.OpenFiles < 64, "at least 64"},
		{"disk", limits.DiskBytes > 0 && limits.DiskBytes < 1<<20, "at least 1MiB"},
	} {
		if c.bad {
			return usageError("%s%s: want %s", prefix, c.flag, c.want)
		}
	}
	return nil
}

// findGroups looks where control groups can be made, and says what limits
// cannot be enforced without them.
func findGroups(log *slog.Logger) *cgroup.Tree {
	groups, err := cgroup.Find()
	if lacks := strings.Join(groups.Lacks(), ", "); lacks != "" {
		lacks = strings.ReplaceAll(lacks, "processes", "processes (counted in the sandbox all the same, but with the process engine)")
		log.Warn("some limits of sandboxes are off", "limits", lacks, "reason", err)
	}
	groups.Sweep()
	return groups
}
