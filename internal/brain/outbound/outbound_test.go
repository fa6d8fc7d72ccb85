package outbound

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func allowed(t *testing.T, entries ...string) Allowed {
	t.Helper()
	a, err := ParseAllowed(entries)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// get calls a server on this machine under another name.
func get(t *testing.T, a Allowed, server *httptest.Server, host string) (*http.Response, error) {
	t.Helper()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := a.Client()
	t.Cleanup(client.CloseIdleConnections)
	res, err := client.Get("http://" + host + ":" + at.Port() + "/")
	if err == nil {
		res.Body.Close()
	}
	return res, err
}

func TestCallsReachThisMachineOnlyWhenItIsOpened(t *testing.T) {
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ }))
	defer server.Close()
	for _, c := range []struct {
		host string
		open []string
		want bool
	}{
		{"127.0.0.1", nil, false},
		{"localhost", nil, false},
		{"[::ffff:127.0.0.1]", nil, false},
		{"0.0.0.0", nil, false},
		{"127.0.0.1", []string{"10.0.0.0/8", "example.com"}, false},
		{"127.0.0.1", []string{"127.0.0.0/8"}, true},
		{"localhost", []string{"127.0.0.1", "::1"}, true},
		{"localhost", []string{"LocalHost."}, true},
		{"[::ffff:127.0.0.1]", []string{"127.0.0.1"}, true},
		{"127.0.0.1", []string{"localhost"}, false},
	} {
		t.Run(fmt.Sprint(c.host, c.open), func(t *testing.T) {
			before := calls
			_, err := get(t, allowed(t, c.open...), server, c.host)
			if c.want {
				if err != nil || calls != before+1 {
					t.Errorf("%v, %d calls", err, calls-before)
				}
				return
			}
			refused, ok := Refused(err)
			if !ok || calls != before {
				t.Fatalf("got %v, and %d calls", err, calls-before)
			}
			if !strings.Contains(refused.Error(), "--allow-private-outbound") {
				t.Errorf("%q does not say what opens it", refused)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	server := httptest.NewServer(http.RedirectHandler("/elsewhere", http.StatusFound))
	defer server.Close()
	res, err := get(t, allowed(t, "127.0.0.1"), server, "127.0.0.1")
	if err != nil || res.StatusCode != http.StatusFound {
		t.Errorf("%v, %v", res, err)
	}
}

func TestAProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	if proxy := allowed(t).Client().Transport.(*http.Transport).Proxy; proxy != nil {
		t.Error("the client has a proxy")
	}
}

func TestOnlyPublicAddressesAreCalled(t *testing.T) {
	for address, want := range map[string]string{
		"8.8.8.8": "", "1.1.1.1": "", "2606:4700::1111": "", "64:ff9b::8.8.8.8": "", "::ffff:8.8.8.8": "", "172.32.0.1": "", "100.128.0.1": "",
		"0.0.0.0": reserved, "127.0.0.1": loopback, "127.255.255.254": loopback, "10.0.0.1": private, "172.16.0.1": private, "172.31.255.255": private,
		"192.168.1.1": private, "100.64.0.1": private, "169.254.169.254": linkLocal, "168.63.129.16": metadata, "100.100.100.200": metadata,
		"192.0.0.192": metadata, "192.0.0.1": reserved, "198.18.0.1": reserved, "224.0.0.1": multicast, "255.255.255.255": reserved,
		"::": reserved, "::1": loopback, "::127.0.0.1": reserved, "::ffff:10.0.0.1": private, "::ffff:0:10.0.0.1": reserved, "64:ff9b::10.0.0.1": private,
		"64:ff9b::169.254.169.254": linkLocal, "64:ff9b:1::1": reserved, "fd00:ec2::254": metadata, "fd12::1": private, "fe80::1%eth0": linkLocal,
		"fec0::1": private, "ff02::1": multicast, "2001:0:a00:1::": reserved, "2002:a00:1::": reserved, "2001:db8::1": reserved, "100::1": reserved, "5f00::1": reserved,
	} {
		if got := (Allowed{}).refuses("example.com", netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is %q, want %q", address, got, want)
		}
	}
}

func TestANameDoesNotOpenMetadata(t *testing.T) {
	byName, byRange := allowed(t, "mcp.example.internal"), allowed(t, "169.254.169.254")
	for address, want := range map[string]string{"10.0.0.1": "", "127.0.0.1": "", "fd12::1": "", "169.254.169.254": linkLocal, "fd00:ec2::254": metadata, "224.0.0.1": multicast} {
		if got := byName.refuses("MCP.example.internal.", netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is %q, want %q", address, got, want)
		}
	}
	if got := byRange.refuses("example.com", netip.MustParseAddr("169.254.169.254")); got != "" {
		t.Errorf("an address that was opened by itself is %s", got)
	}
}

func TestWhatIsOpenedIsChecked(t *testing.T) {
	for _, entry := range []string{"", "10.0.0.0/33", "http://example.com", "*.example.com", "example.com:443", "a b", "-a"} {
		if _, err := ParseAllowed([]string{entry}); err == nil || !strings.Contains(err.Error(), "10.1.0.0/16") {
			t.Errorf("%q: %v", entry, err)
		}
	}
	if _, err := ParseAllowed([]string{" 10.1.2.3/16", "::ffff:10.0.0.1", "a_b.example", "x"}); err != nil {
		t.Error(err)
	}
}
