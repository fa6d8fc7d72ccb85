package deployment

import (
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones are known on hosts without a database of them, too

	"hearth/api"
)

// cron is a POSIX cron expression: a set of bits for each field.
type cron struct {
	minute, hour, day, month, weekday uint64
	// anyDay and anyWeekday: the field is *. When neither is, one match suffices.
	anyDay, anyWeekday bool
}

// fields are the fields of an expression, in order.
var fields = []struct {
	name      string
	low, high int
}{{"minute", 0, 59}, {"hour", 0, 23}, {"day of month", 1, 31}, {"month", 1, 12}, {"day of week", 0, 7}}

// maxExpression bounds an expression, in bytes.
const maxExpression = 256

// parseCron reads five fields of numbers, ranges (1-5), lists (1,3) and steps
// (*/15, 9-17/2). Both 0 and 7 are Sunday. An expression that never matches, for
// the 30th of February say, is none.
func parseCron(expression string) (cron, error) {
	if len(expression) > maxExpression {
		return cron{}, invalidCron("has %d bytes, at most %d are allowed", len(expression), maxExpression)
	}
	parts := strings.Fields(expression)
	if len(parts) != len(fields) {
		return cron{}, invalidCron("has %d fields, want 5: minute, hour, day of month, month, day of week, as in \"0 9 * * 1-5\"", len(parts))
	}
	var sets [5]uint64
	for i, part := range parts {
		set, ok := parseField(part, fields[i].low, fields[i].high)
		if !ok {
			return cron{}, invalidCron("the %s %.40q is not made of numbers from %d to %d, as in *, */15, 1-5 or 1,3", fields[i].name, part, fields[i].low, fields[i].high)
		}
		sets[i] = set
	}
	c := cron{minute: sets[0], hour: sets[1], day: sets[2], month: sets[3], weekday: sets[4], anyDay: parts[2] == "*", anyWeekday: parts[4] == "*"}
	if c.weekday&(1<<7) != 0 {
		c.weekday |= 1
	}
	if c.next(time.Unix(0, 0), time.UTC).IsZero() {
		return cron{}, invalidCron("names a date that never comes")
	}
	return c, nil
}

func invalidCron(format string, args ...any) error {
	return api.Invalid("schedule.expression", format, args...)
}

func parseField(text string, low, high int) (set uint64, ok bool) {
	for part := range strings.SplitSeq(text, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		first, last, step := low, high, 1
		if from, to, isRange := strings.Cut(span, "-"); span != "*" {
			if first, ok = parseNumber(from, low, high); !ok {
				return 0, false
			}
			last = first
			if isRange {
				if last, ok = parseNumber(to, first, high); !ok {
					return 0, false
				}
			} else if stepped {
				return 0, false // a step needs something to step through
			}
		} else if high == 7 {
			last = 6 // Sunday is in it once
		}
		if stepped {
			if step, ok = parseNumber(stepText, 1, high); !ok {
				return 0, false
			}
		}
		for n := first; n <= last; n += step {
			set |= 1 << n
		}
	}
	return set, true
}

// parseNumber reads one or two digits.
func parseNumber(text string, low, high int) (int, bool) {
	if text == "" || len(text) > 2 || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && low <= n && n <= high
}

// parseZone finds a time zone of the IANA database.
func parseZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		return nil, api.Invalid("schedule.timezone", "%.80q is not a time zone of the IANA database; UTC and Europe/Paris are", name)
	}
	return zone, nil
}

// horizon is how far ahead a match is looked for: the 29th of February is at the
// most eight years away.
const horizon = 9 * 366 * 24 * time.Hour

// next is the first instant after the one given at which clocks in the zone show
// what matches, or zero if there is none. Where clocks are put forward, what they
// skip does not come; where they are put back, what they repeat comes twice.
func (c cron) next(after time.Time, zone *time.Location) time.Time {
	t := after.UTC().Truncate(time.Minute).Add(time.Minute)
	for end := t.Add(horizon); t.Before(end); {
		local := t.In(zone)
		step := c.skip(local)
		if step == 0 {
			return t
		}
		to := t.Add(step)
		// Until the zone's offset changes its clocks run evenly, and no further.
		if _, change := local.ZoneBounds(); !change.IsZero() && change.Before(to) {
			to = change.UTC().Add(time.Minute - time.Nanosecond).Truncate(time.Minute)
		}
		t = to
	}
	return time.Time{}
}

// skip is how long, on a clock that runs evenly, nothing can match; 0 for a match.
func (c cron) skip(local time.Time) time.Duration {
	year, month, day := local.Date()
	now := time.Date(year, month, day, local.Hour(), local.Minute(), 0, 0, time.UTC)
	switch {
	case c.month&(1<<month) == 0:
		return time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC).Sub(now)
	case !c.onDay(local):
		return time.Date(year, month, day+1, 0, 0, 0, 0, time.UTC).Sub(now)
	case c.hour&(1<<local.Hour()) == 0:
		return time.Duration(60-local.Minute()) * time.Minute
	case c.minute&(1<<local.Minute()) == 0:
		return time.Minute
	}
	return 0
}

// onDay follows POSIX: of the two fields for days, * says nothing, and if both
// say something, either will do.
func (c cron) onDay(local time.Time) bool {
	day, weekday := c.day&(1<<local.Day()) != 0, c.weekday&(1<<local.Weekday()) != 0
	switch {
	case c.anyDay:
		return weekday
	case c.anyWeekday:
		return day
	}
	return day || weekday
}
