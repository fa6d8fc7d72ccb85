// Package outbound makes the HTTP clients by which the server calls what its
// users name: MCP servers, token endpoints, webhooks. Such a call must not reach
// the server's own network through them, so a client of this package connects to
// public addresses only, and to those that the operator has opened. It owns
// nothing and calls nobody.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Allowed is what the operator has opened beside the public addresses. The zero
// value opens nothing.
type Allowed struct {
	ranges []netip.Prefix
	hosts  []string
}

var hostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

// ParseAllowed reads a list of what is opened, as the flag --allow-private-outbound
// gives it. Each entry is an address (10.1.2.3), a range (10.1.0.0/16) or the exact
// name of a host (mcp.example.internal). A host's name opens the private and
// loopback addresses that it resolves to; link-local ones, where clouds keep their
// metadata, are opened by an address or a range only.
func ParseAllowed(entries []string) (Allowed, error) {
	var a Allowed
	for _, entry := range entries {
		entry = strings.TrimSpace(entry)
		if prefix, err := netip.ParsePrefix(entry); err == nil {
			a.ranges = append(a.ranges, prefix.Masked())
			continue
		}
		if ip, err := netip.ParseAddr(entry); err == nil {
			ip = ip.Unmap().WithZone("")
			a.ranges = append(a.ranges, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		host := canonical(entry)
		if !hostName.MatchString(host) {
			return Allowed{}, fmt.Errorf("%.80q is neither an address (10.1.2.3), a range (10.1.0.0/16) nor the name of a host (mcp.example.internal)", entry)
		}
		a.hosts = append(a.hosts, host)
	}
	return a, nil
}

func canonical(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

// RefusedError says that a host is at an address that calls must not reach. It
// names the kind of address, never the address: what names of the inside resolve
// to is nothing for the one who asked.
type RefusedError struct {
	Host string // as the URL has it
	Kind string // "private", say
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s is at a %s address, which this server does not call; its operator can open it with --allow-private-outbound", e.Host, e.Kind)
}

// Refused finds in err that an address was refused.
func Refused(err error) (*RefusedError, bool) {
	var refused *RefusedError
	return refused, errors.As(err, &refused)
}

const (
	dialTimeout    = 10 * time.Second
	headerTimeout  = 30 * time.Second
	idleTimeout    = 90 * time.Second
	maxHeaderBytes = 64 << 10
)

// Client makes a client. The address of each connection is looked at after its
// name has been resolved, so what a name resolves to later does not matter. It uses
// no proxy, since a proxy would resolve names by itself, follows no redirects
// (set CheckRedirect to nil to follow them, to allowed addresses only), and bounds
// how long connecting and the answer's headers may take. For the body, give the
// request a context with a deadline, and limit what is read of it.
func (a Allowed) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            a.dial,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  headerTimeout,
			IdleConnTimeout:        idleTimeout,
			MaxIdleConns:           100,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (a Allowed) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{
		Timeout: dialTimeout,
		Control: func(_, resolved string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return err
			}
			if kind := a.refuses(host, to.Addr()); kind != "" {
				return &RefusedError{Host: host, Kind: kind}
			}
			return nil
		},
	}
	return dialer.DialContext(ctx, network, address)
}

// refuses says which kind of address it is that must not be called, "" for one
// that may.
func (a Allowed) refuses(host string, ip netip.Addr) string {
	ip = reached(ip)
	if slices.ContainsFunc(a.ranges, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return ""
	}
	kind := kindOf(ip)
	if (kind == private || kind == loopback) && slices.Contains(a.hosts, canonical(host)) {
		return ""
	}
	return kind
}

// nat64 is the prefix behind which IPv6-only networks reach IPv4 addresses.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// reached is the address that is reached in the end.
func reached(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if nat64.Contains(ip) {
		raw := ip.As16()
		return netip.AddrFrom4([4]byte(raw[12:]))
	}
	return ip
}

// The kinds of addresses that calls must not reach.
const (
	loopback  = "loopback"
	private   = "private"
	linkLocal = "link-local"
	multicast = "multicast"
	metadata  = "metadata"
	reserved  = "reserved"
)

// special are the ranges that are not public, the narrower ones first.
var special = []struct {
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("169.254.0.0/16"), linkLocal},
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},   // Azure's, in public space
	{netip.MustParsePrefix("100.100.100.200/32"), metadata}, // Alibaba's, in shared space
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},     // Oracle's
	{netip.MustParsePrefix("fd00:ec2::/32"), metadata},      // Amazon's, over IPv6
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},   // Google's, over IPv6
	{netip.MustParsePrefix("127.0.0.0/8"), loopback},
	{netip.MustParsePrefix("10.0.0.0/8"), private},
	{netip.MustParsePrefix("172.16.0.0/12"), private},
	{netip.MustParsePrefix("192.168.0.0/16"), private},
	{netip.MustParsePrefix("100.64.0.0/10"), private},
	{netip.MustParsePrefix("224.0.0.0/4"), multicast},
	{netip.MustParsePrefix("0.0.0.0/8"), reserved},
	{netip.MustParsePrefix("192.0.0.0/24"), reserved},
	{netip.MustParsePrefix("192.0.2.0/24"), reserved},
	{netip.MustParsePrefix("192.88.99.0/24"), reserved},
	{netip.MustParsePrefix("198.18.0.0/15"), reserved},
	{netip.MustParsePrefix("198.51.100.0/24"), reserved},
	{netip.MustParsePrefix("203.0.113.0/24"), reserved},
	{netip.MustParsePrefix("240.0.0.0/4"), reserved},
	{netip.MustParsePrefix("::1/128"), loopback},
	{netip.MustParsePrefix("fc00::/7"), private},
	{netip.MustParsePrefix("fec0::/10"), private},
	{netip.MustParsePrefix("fe80::/10"), linkLocal},
	{netip.MustParsePrefix("ff00::/8"), multicast},
	{netip.MustParsePrefix("2001::/23"), reserved}, // Teredo among them, which carries IPv4
	{netip.MustParsePrefix("2001:db8::/32"), reserved},
	{netip.MustParsePrefix("2002::/16"), reserved}, // 6to4, which carries IPv4
	{netip.MustParsePrefix("3fff::/20"), reserved},
}

// public6 is all of IPv6 that has been given out as public so far.
var public6 = netip.MustParsePrefix("2000::/3")

func kindOf(ip netip.Addr) string {
	for _, s := range special {
		if s.prefix.Contains(ip) {
			return s.kind
		}
	}
	if ip.Is4() || public6.Contains(ip) {
		return ""
	}
	return reserved
}
