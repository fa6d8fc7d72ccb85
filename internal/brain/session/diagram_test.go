package session

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The drawing that people read and the table that the program runs on.
const drawing = "../../../docs/architecture/session.md"

var arrow = regexp.MustCompile(`^\s*(\w+) --> (\w+)\s*:\s*(.+)$`)

func TestTheDrawingHasExactlyTheTransitionsOfTheTable(t *testing.T) {
	var inTable []string
	for from, causes := range transitions {
		for c, to := range causes {
			inTable = append(inTable, string(from)+" --> "+string(to)+" by "+string(c))
		}
	}
	drawn := drawnTransitions(t)
	for _, one := range drawn {
		if !slices.Contains(inTable, one) {
			t.Errorf("drawn, and not in the table: %s", one)
		}
	}
	for _, one := range inTable {
		if !slices.Contains(drawn, one) {
			t.Errorf("in the table, and not drawn: %s", one)
		}
	}
	if len(drawn) != len(inTable) {
		t.Errorf("%d transitions are drawn, the table has %d", len(drawn), len(inTable))
	}
}

// drawnTransitions reads the state diagram of the document. An arrow carries
// its causes, separated by commas.
func drawnTransitions(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile(drawing)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(raw), "```mermaid\nstateDiagram-v2\n")
	diagram, _, ended := strings.Cut(rest, "\n```")
	if !found || !ended {
		t.Fatalf("%s holds no state diagram", drawing)
	}
	var drawn []string
	for line := range strings.Lines(diagram) {
		line = strings.TrimRight(line, "\n")
		parts := arrow.FindStringSubmatch(line)
		if parts == nil {
			if strings.Contains(line, "-->") && !strings.Contains(line, "[*]") {
				t.Errorf("cannot read the arrow %q", line)
			}
			continue
		}
		for c := range strings.SplitSeq(parts[3], ",") {
			drawn = append(drawn, parts[1]+" --> "+parts[2]+" by "+strings.TrimSpace(c))
		}
	}
	return drawn
}
