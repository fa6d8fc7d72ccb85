package doctor_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// healthy answers as a server that is ready does.
func healthy(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"status":"ok"}`)
}

// ask runs a doctor that has little else to look at than a server: where no
// state can be, no engine is tried.
func ask(t *testing.T, address string, env ...string) report {
	t.Helper()
	return shell{env: env}.doctor(t, "--state", "/dev/null/none", "--base-url", address)
}

// certificate makes one for this host, valid between two times, and a file by
// which to trust it.
func certificate(t *testing.T, name string, from, to time.Time) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, "SSL_CERT_FILE=" + path
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		name              string
		from, to          time.Time
		unknown           bool
		status, says, fix string
	}{
		"good":         {"127.0.0.1", now.Add(-day), now.Add(100 * day), false, "ok", "TLS 1.3; the certificate is valid until", ""},
		"ends soon":    {"127.0.0.1", now.Add(-day), now.Add(3 * day), false, "warn", "valid for only 72h", "renew"},
		"expired":      {"127.0.0.1", now.Add(-9 * day), now.Add(-2 * day), false, "fail", "has expired, on " + now.Add(-2*day).UTC().Format("2006-01-02"), "renew"},
		"not yet":      {"127.0.0.1", now.Add(2 * day), now.Add(9 * day), false, "fail", "valid from " + now.Add(2*day).UTC().Format("2006-01-02"), "set-ntp true"},
		"another name": {"elsewhere.example", now.Add(-day), now.Add(100 * day), false, "fail", "for another name", "--base-url"},
		"not vouched":  {"127.0.0.1", now.Add(-day), now.Add(100 * day), true, "fail", "nobody this host trusts", "SSL_CERT_FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert, trust := certificate(t, c.name, c.from, c.to)
			if c.unknown {
				_, trust = certificate(t, "other", c.from, c.to)
			}
			server := httptest.NewUnstartedServer(http.HandlerFunc(healthy))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.StartTLS()
			defer server.Close()
			r := ask(t, server.URL, trust)
			r.want(t, "Server", "TCP", "ok", "connected to 127.0.0.1", "")
			r.want(t, "Server", "TLS", c.status, c.says, c.fix)
			rest := map[string]string{"fail": "skipped"}[c.status]
			if rest == "" {
				rest = "ok"
			}
			r.want(t, "Server", "health", rest, "", "")
		})
	}
}

func TestWhatAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer                  http.HandlerFunc
		step, status, says, fix string
	}{
		"well":      {healthy, "health", "ok", "ready", ""},
		"elsewhere": {http.RedirectHandler("https://brain.example/", http.StatusFound).ServeHTTP, "health", "fail", "redirection to https://brain.example/", "--base-url"},
		"a page":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>\x1b[31m") }, "health", "fail", "something else", "--base-url"},
		"nothing":   {http.NotFound, "health", "warn", "no /healthz", "--base-url"},
		"broken":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "health", "fail", "502 Bad Gateway", "log"},
		"not ready": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" {
				healthy(w, r)
				return
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"error":{"message":"the database does not answer"}}`)
		}, "health", "fail", "cannot serve: 503, the database does not answer", "log"},
		"another time": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
			healthy(w, r)
		}, "clock", "warn", "1h0m0s ahead of the server's", "set-ntp true"},
		"hanging up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "HTTP", "fail", "EOF", "proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(c.answer)
			t.Cleanup(server.CloseClientConnections)
			r := ask(t, server.URL)
			r.want(t, "Server", "TCP", "ok", "connected to 127.0.0.1", "")
			r.want(t, "Server", c.step, c.status, c.says, c.fix)
		})
	}
}

func TestServerThatNeverAnswers(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel connects, and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	r := ask(t, "http://"+listener.Addr().String())
	r.want(t, "Server", "TCP", "ok", "connected to 127.0.0.1", "")
	r.want(t, "Server", "HTTP", "fail", "no answer came", "proxy")
	r.want(t, "Server", "health", "skipped", "", "")
}

func TestNoTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(healthy))
	defer server.Close()
	r := ask(t, strings.Replace(server.URL, "http:", "https:", 1))
	r.want(t, "Server", "TLS", "fail", "does not speak TLS", "http://127.0.0.1")
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for address, says := range map[string]string{"brain.example": "no address", "ftp://brain.example": "no address", "http://[::1": "cannot be read", "https://": "no address"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			ask(t, address).want(t, "Server", "address", "fail", says, "https://brain.example")
		})
	}
	t.Run("no such name", func(t *testing.T) {
		t.Parallel()
		r := ask(t, "https://brain.invalid")
		r.want(t, "Server", "DNS", "fail", "no address is known", "getent hosts brain.invalid")
		r.want(t, "Server", "TCP", "skipped", "", "")
		r.want(t, "Server", "key", "skipped", "", "")
	})
}

func TestProxies(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		healthy(w, r)
	}))
	defer proxy.Close()
	at := strings.TrimPrefix(proxy.URL, "http://")
	by := (&url.URL{Scheme: "http", User: url.UserPassword("gate", "proxy-password"), Host: at}).String()

	r := ask(t, "http://brain.invalid", "HTTP_PROXY="+by)
	r.want(t, "Server", "address", "warn", "for all to read", "https://brain.invalid")
	r.want(t, "Server", "proxy", "ok", "by "+at+", as HTTP_PROXY say", "")
	r.want(t, "Server", "TCP", "ok", at, "")
	r.want(t, "Server", "health", "ok", "", "")
	if strings.Contains(r.text, "proxy-password") {
		t.Errorf("the proxy's password is told:\n%s", r.text)
	}

	r = ask(t, "https://brain.invalid", "HTTPS_PROXY="+by)
	r.want(t, "Server", "TCP", "ok", at, "")
	r.want(t, "Server", "TLS", "fail", "Forbidden", "CONNECT to brain.invalid")

	r = ask(t, "http://brain.invalid", "HTTP_PROXY="+by, "NO_PROXY=brain.invalid")
	r.want(t, "Server", "proxy", "ok", "none for this address", "")
}
