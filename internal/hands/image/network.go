package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// How long a registry is waited for: until an answer begins, until it has said what
// a name stands for, and until more of an answer comes.
const (
	answerTimeout  = 30 * time.Second
	lookUpTimeout  = 30 * time.Second
	silenceTimeout = time.Minute
)

// network is the way to registries.
type network struct {
	*http.Transport
	lookUp, silence time.Duration
}

func newNetwork() network {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = answerTimeout
	return network{t, lookUpTimeout, silenceTimeout}
}

// errPlain says that a registry would have to be spoken to without TLS.
var errPlain = errors.New("no registry is spoken to in plain HTTP unless it is on the loopback: have it serve TLS")

// errSilent says that a registry does not answer, or not to the end.
var errSilent = errors.New("the registry is silent")

// lookUp finds an image in a registry. It is fetched in the same context.
func (s *Store) lookUp(ctx context.Context, ref name.Reference) (source, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	src := source{received: new(atomic.Int64), cleanup: func() {
		cancel(nil)
		s.network.CloseIdleConnections()
	}}
	late := time.AfterFunc(s.network.lookUp, func() {
		cancel(fmt.Errorf("%w: it has not said within %s what the name stands for", errSilent, s.network.lookUp))
	})
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithPlatform(platform),
		remote.WithUserAgent("hearth"), remote.WithTransport(wire{s.network, src.received}))
	if !late.Stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		src.cleanup()
		return src, fmt.Errorf("look up the image %s: %w%s", ref, err, advice(err, ref))
	}
	src.Image = unpacking{img, ctx}
	return src, nil
}

// advice is what to do about the answer of a registry.
func advice(err error, ref name.Reference) string {
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Sprintf("; mend the name, or log in as the user who runs this: docker login %s, or podman login", ref.Context().RegistryStr())
		case http.StatusNotFound:
			return "; the registry does not have it: mend the name, or push the image"
		}
	}
	return ""
}

// unreachable tells that a registry has not said anything of an image: it was not
// there, or it says that it cannot answer now.
func unreachable(err error) bool {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests
	}
	if errors.Is(err, errPlain) { // it is there if it could be connected to
		var absent *net.OpError
		return errors.As(err, &absent)
	}
	var broken net.Error
	return errors.As(err, &broken) || errors.Is(err, errSilent) || errors.Is(err, io.ErrUnexpectedEOF)
}

// wire takes requests to registries, and counts the bytes of answers.
type wire struct {
	network
	received *atomic.Int64
}

// RoundTrip speaks plain HTTP on the loopback only. The library would to private
// addresses too, where TLS does not work: whoever keeps it from working would be
// sent the credentials.
func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !isLoopback(r.URL.Hostname()) {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, fmt.Errorf("%.200s: %w", r.URL.Host, errPlain)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	response, err := w.Transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	response.Body = body{response.Body, w, ctx, cancel}
	return response, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// body is that of an answer.
type body struct {
	io.ReadCloser
	wire
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Read waits for a silent registry for so long, and then no more.
func (b body) Read(p []byte) (int, error) {
	silence := time.AfterFunc(b.silence, func() {
		b.cancel(fmt.Errorf("%w: it has sent nothing for %s in the midst of an answer", errSilent, b.silence))
	})
	n, err := b.ReadCloser.Read(p)
	silence.Stop()
	b.received.Add(int64(n))
	if cause := context.Cause(b.ctx); err != nil && errors.Is(cause, errSilent) {
		err = cause
	}
	return n, err
}

func (b body) Close() error {
	b.cancel(nil)
	return b.ReadCloser.Close()
}
