package run

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Descendants lists the processes below one, those that wait to be waited for
// among them.
func Descendants(of int) (below []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	parents := map[int]int{}
	for _, name := range stats {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name))) // by the pattern
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		parents[pid], _ = strconv.Atoi(fields[1])
	}
	for pid := range parents {
		for up := parents[pid]; up > 1; up = parents[up] {
			if up == of {
				below = append(below, pid)
				break
			}
		}
	}
	return below
}
