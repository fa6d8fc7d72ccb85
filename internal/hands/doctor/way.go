package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// way is the way to a server, walked by the same means as a worker's requests,
// and what was met on it.
type way struct {
	client *http.Client

	mu        sync.Mutex
	looked    bool // up a name; these are guarded by mu
	names     []net.IPAddr
	nameErr   error
	dialled   string // the address that was reached, or tried last
	reached   bool
	dialErr   error
	shaken    bool // hands, by TLS
	handshake tls.ConnectionState
	shakeErr  error
}

func newWay() *way {
	return &way{client: &http.Client{
		Transport: &http.Transport{
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{Timeout: remote / 3}).DialContext, TLSHandshakeTimeout: remote / 3,
			ForceAttemptHTTP2: true, DisableKeepAlives: true,
		},
		// A worker that is sent elsewhere would leave its key there.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// traced notes what a request meets.
func (w *way) traced(ctx context.Context) context.Context {
	note := func(change func()) {
		w.mu.Lock()
		defer w.mu.Unlock()
		change()
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSDone: func(i httptrace.DNSDoneInfo) { note(func() { w.looked, w.names, w.nameErr = true, i.Addrs, i.Err }) },
		ConnectDone: func(_, address string, err error) {
			note(func() {
				if w.reached {
					return // one of several addresses is enough
				}
				w.dialled, w.dialErr, w.reached = address, err, err == nil
			})
		},
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			note(func() { w.shaken, w.handshake, w.shakeErr = true, state, err })
		},
	})
}

// findings are the steps up to the first that failed; what lies behind it is
// skipped. Err is what came of the first request.
func (w *way) findings(base *url.URL, err error) []Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []Finding
	broken := false
	add := func(name string, f Finding) {
		if broken {
			f = skipped(name, "the step before it failed")
		}
		broken = broken || f.Status == Fail
		found = append(found, f)
	}
	add(stepDNS, w.dns(base))
	add(stepTCP, w.tcp(err))
	add(stepTLS, w.tls(base, err))
	if err != nil && !broken {
		found = append(found, failure("HTTP", "look at what stands at "+base.Host+", and at the proxy if there is one", "no answer came: %v", reason(err)))
	}
	return found
}

func (w *way) dns(base *url.URL) Finding {
	switch {
	case w.nameErr != nil:
		return failure(stepDNS, "look at /etc/resolv.conf and /etc/hosts, or mend the name; by hand: getent hosts "+quoted(base.Hostname()), "no address is known: %v", w.nameErr)
	case w.looked && len(w.names) > 0:
		return good(stepDNS, "the name is that of %s", w.names[0].String())
	}
	return good(stepDNS, "no name to look up")
}

func (w *way) tcp(err error) Finding {
	switch {
	case w.reached:
		return good(stepTCP, "connected to %s", w.dialled)
	case errors.Is(w.dialErr, unix.ECONNREFUSED):
		return failure(stepTCP, "start the server, or mend the port in --base-url", "nothing listens at %s", w.dialled)
	case w.dialErr != nil:
		return failure(stepTCP, "let firewalls pass connections from here to "+w.dialled, "%s cannot be reached: %v", w.dialled, w.dialErr)
	}
	return failure(stepTCP, "let firewalls pass connections to it, or set HTTPS_PROXY where there is a proxy", "no connection came about: %v", reason(err))
}

func (w *way) tls(base *url.URL, err error) Finding {
	switch {
	case base.Scheme == "http":
		return skipped(stepTLS, "the address is without it")
	case w.shakeErr != nil:
		return explainTLS(base, w.shakeErr)
	case !w.shaken:
		return failure(stepTLS, "let the proxy pass CONNECT to "+base.Host, "it did not begin: %v", reason(err))
	}
	const soon = 14 * 24 * time.Hour
	if certificates := w.handshake.PeerCertificates; len(certificates) > 0 {
		ends := certificates[0].NotAfter
		if left := time.Until(ends); left < soon {
			return warning(stepTLS, "renew the certificate at the server", "the certificate is valid for only %s more, until %s", left.Round(time.Hour), ends.Format(time.DateTime))
		}
		return good(stepTLS, "%s; the certificate is valid until %s", tls.VersionName(w.handshake.Version), ends.Format(time.DateOnly))
	}
	return good(stepTLS, "%s", tls.VersionName(w.handshake.Version))
}

// explainCertificate tells what is wrong with a certificate, and what to do.
func explainCertificate(err error, now time.Time) Finding {
	const trust = "trust its authority: SSL_CERT_FILE=authority.pem in the worker's environment, or update-ca-certificates"
	var (
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		named   x509.HostnameError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
		return failure(stepTLS, "set this host's clock: "+clockFix, "the certificate is valid from %s on only; this host has %s", invalid.Cert.NotBefore.Format(time.DateTime), now.UTC().Format(time.DateTime))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return failure(stepTLS, "renew the certificate at the server; if this host's clock is wrong: "+clockFix, "the certificate has expired, on %s", invalid.Cert.NotAfter.Format(time.DateTime))
	case errors.As(err, &unknown):
		return failure(stepTLS, trust, "nobody this host trusts vouches for the certificate: %v", err)
	case errors.As(err, &named):
		return failure(stepTLS, "set --base-url to a name the certificate has", "the certificate is for another name: %v", err)
	}
	return failure(stepTLS, "look at what stands between here and the server; by hand: openssl s_client -connect HOST:443", "the handshake failed: %v", err)
}
