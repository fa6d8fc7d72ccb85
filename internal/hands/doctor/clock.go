package doctor

import (
	"time"

	"golang.org/x/sys/unix"
)

const clockFix = "sudo timedatectl set-ntp true, or: sudo apt-get install chrony"

// clock tells whether something keeps this host's clock right.
func clock() []Finding {
	const name = "synchronised"
	now := unix.Timex{} // no modes: it only asks
	if _, err := unix.Adjtimex(&now); err != nil {
		return []Finding{skipped(name, "the kernel does not say: %v", err)}
	}
	if now.Status&unix.STA_UNSYNC != 0 {
		return []Finding{warning(name, clockFix, "nothing keeps the clock right, by NTP or otherwise, as far as the kernel knows")}
	}
	return []Finding{good(name, "by NTP or what the host has for it; the error is at most %s", (time.Duration(now.Maxerror) * time.Microsecond).Round(time.Millisecond))}
}

// tolerated is how far apart two clocks may be before anything depends on it.
const tolerated = 5 * time.Second

// apart compares our clock with the server's, which tells whole seconds.
func apart(name string, asked, answered, theirs time.Time) Finding {
	ours := asked.Add(answered.Sub(asked) / 2)
	offset := theirs.Add(500 * time.Millisecond).Sub(ours).Round(time.Second)
	switch {
	case offset > tolerated:
		return warning(name, clockFix, "%s behind the server's (or the server's is ahead): certificates and deadlines may be misjudged", offset)
	case offset < -tolerated:
		return warning(name, clockFix, "%s ahead of the server's (or the server's is behind): certificates and deadlines may be misjudged", -offset)
	}
	return good(name, "agrees with the server's to within %s", max(offset.Abs(), time.Second))
}
