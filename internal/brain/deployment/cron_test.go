package deployment

import (
	"strings"
	"testing"
	"time"
)

// TestCronTicks: what follows what, in zones whose clocks change.
func TestCronTicks(t *testing.T) {
	for _, c := range []struct{ expression, zone, after, want string }{
		{"0 9 * * 1-5", "UTC", "2026-11-27T09:00:00Z", "2026-11-30T09:00:00Z 2026-12-01T09:00:00Z"}, // over a weekend
		{"*/15 * * * *", "UTC", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00Z 2026-01-01T00:30:00Z"},
		{"0 0 * * 0", "UTC", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"},
		{"0 0 * * 7", "UTC", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"},
		{"0 0 * * 5-7", "UTC", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z 2026-01-03T00:00:00Z 2026-01-04T00:00:00Z 2026-01-09T00:00:00Z"},
		{"0 0 13 * 5", "UTC", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z 2026-02-13T00:00:00Z 2026-02-20T00:00:00Z"}, // either
		{"0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"},
		{"0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"}, // 2100 has none
		{"59 23 31 12 *", "Asia/Kolkata", "2026-12-31T18:29:00Z", "2027-12-31T18:29:00Z"},

		// New York goes from 2:00 to 3:00 on 8 March 2026: 2:30 is skipped that day,
		{"30 2 * * *", "America/New_York", "2026-03-07T00:00:00Z", "2026-03-07T07:30:00Z 2026-03-09T06:30:00Z"},
		// and every hour there is comes once.
		{"0 * * * *", "America/New_York", "2026-03-08T05:30:00Z", "2026-03-08T06:00:00Z 2026-03-08T07:00:00Z 2026-03-08T08:00:00Z"},
		// From 2:00 back to 1:00 on 1 November: 1:30 comes twice,
		{"30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z", "2026-11-01T05:30:00Z 2026-11-01T06:30:00Z 2026-11-02T06:30:00Z"},
		// and 2:30 once.
		{"30 2 * * *", "America/New_York", "2026-11-01T00:00:00Z", "2026-11-01T07:30:00Z 2026-11-02T07:30:00Z"},
		// Lord Howe changes by half an hour, at 2:00: to 2:30, and back to 1:30.
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "2026-10-04T15:15:00Z"},
		{"45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", "2026-04-04T14:45:00Z 2026-04-04T15:15:00Z 2026-04-05T15:15:00Z"},
		// In Beirut clocks go forward at midnight, so that day begins at 1:00.
		{"0 0 * * *", "Asia/Beirut", "2026-03-27T22:00:00Z", "2026-03-29T21:00:00Z"},
	} {
		parsed, err := parseCron(c.expression)
		if err != nil {
			t.Fatal(err)
		}
		zone, err := parseZone(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, c.after)
		if err != nil {
			t.Fatal(err)
		}
		for want := range strings.FieldsSeq(c.want) {
			if at = parsed.next(at, zone); at.Format(time.RFC3339) != want {
				t.Errorf("%q in %s after %s: %s, want %s", c.expression, c.zone, c.after, at.Format(time.RFC3339), want)
				break
			}
		}
	}
}

func TestBadCrons(t *testing.T) {
	for _, bad := range []string{
		"", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 8", "@daily", "0 9 * * MON", "0 0 L * *",
		"0 0 ? * *", "0 0 1W * *", "0 0 * * 1#2", "*/0 * * * *", "5/10 * * * *", "5-1 * * * *", "1,,2 * * * *", "-1 * * * *", "1- * * * *", "+1 * * * *", "0x1 * * * *",
		"0 0 30 2 *", "0 0 31 4,6,9,11 *", "TZ=UTC 0 0 * * *", "*-5 * * * *", strings.Repeat(" ", 300) + "* * * * *",
	} {
		if _, err := parseCron(bad); err == nil || !strings.HasPrefix(err.Error(), "400 invalid_request_error: schedule.expression: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "Local", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "EST5EDT4"} {
		if _, err := parseZone(bad); err == nil {
			t.Errorf("%q is a zone", bad)
		}
	}
}

// FuzzCron: what is accepted has a next tick that is later, matches all fields,
// and is the first that does.
func FuzzCron(f *testing.F) {
	for _, expression := range []string{"0 9 * * 1-5", "*/15 0-23/5 1,15 * 7", "30 2 29 2 *", "59 23 31 12 0", "0 0 13 * 5"} {
		for _, zone := range []string{"UTC", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Monrovia", "Asia/Beirut"} {
			f.Add(expression, zone, int64(1_790_000_000))
			f.Add(expression, zone, int64(1_325_239_100)) // Apia skips a day
			f.Add(expression, zone, int64(63_593_000))    // Monrovia's offset has seconds
		}
	}
	f.Fuzz(func(t *testing.T, expression, zoneName string, unix int64) {
		c, err := parseCron(expression)
		if err != nil {
			return
		}
		zone, err := parseZone(zoneName)
		if err != nil || unix < 0 || unix > 4_000_000_000 {
			return
		}
		after := time.Unix(unix, 0)
		next := c.next(after, zone)
		if !next.After(after) {
			t.Fatalf("%q in %s after %s: %s", expression, zone, after.UTC(), next)
		}
		if next.Second() != 0 || c.skip(next.In(zone)) != 0 {
			t.Fatalf("%q in %s does not match %s", expression, zone, next.In(zone))
		}
		// Minute by minute, for the day before it.
		from := next.Add(-24 * time.Hour)
		if from.Before(after) {
			from = after.Truncate(time.Minute).Add(time.Minute)
		}
		for at := from; at.Before(next); at = at.Add(time.Minute) {
			if c.skip(at.In(zone)) == 0 {
				t.Fatalf("%q in %s after %s: %s comes before %s", expression, zone, after.UTC(), at, next)
			}
		}
	})
}
