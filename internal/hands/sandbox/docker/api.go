package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// api speaks with the daemon over its socket.
type api struct {
	socket string
	http   *http.Client
	prefix string // of every path: "/v" and the version, or "" for the daemon's own
}

// dial is an api at a socket. Nothing is sent yet.
func dial(socket string) *api {
	transport := &http.Transport{
		IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	return &api{socket: socket, http: &http.Client{Transport: transport}}
}

// refusal is the daemon's own word on what it will not do.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return "the Docker daemon says: " + r.message }

// refused tells whether the daemon has answered with a status.
func refused(err error, status int) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == status
}

// request is one to the daemon.
type request struct {
	method, path string
	query        url.Values
	body         any // sent as JSON; nil for none
	upgrade      bool
}

// send sends a request. The answer is one of success, and to be closed.
func (a *api) send(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	if r.body != nil {
		raw, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	// The host is never looked up.
	req, err := http.NewRequestWithContext(ctx, r.method, "http://docker"+a.prefix+r.path+"?"+r.query.Encode(), body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.upgrade {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "tcp")
	}
	answer, err := a.http.Do(req)
	if err != nil {
		return nil, a.unreachable(err)
	}
	if answer.StatusCode < http.StatusBadRequest {
		return answer, nil
	}
	defer answer.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10)) // what was read will do
	said := struct{ Message string }{strings.TrimSpace(string(raw))}
	_ = json.Unmarshal(raw, &said) // else it stays as it is
	return nil, &refusal{answer.StatusCode, said.Message}
}

// unreachable says what to do about a daemon that does not answer.
func (a *api) unreachable(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without the address that is none
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("this user may not use the Docker daemon at %s; add it to the group that owns the socket, which makes it as powerful as root: %w", a.socket, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fmt.Errorf("no Docker daemon answers at %s; start it (systemctl start docker), or say where it is with --docker-host: %w", a.socket, err)
}

// do sends a request and reads its answer into answer, unless that is nil.
func (a *api) do(ctx context.Context, r request, answer any) error {
	response, err := a.send(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if answer == nil {
		_, err := io.Copy(io.Discard, response.Body)
		return err
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("the Docker daemon's answer to %s: %w", r.path, err)
	}
	return nil
}

// attach connects to the standard streams of a container, which need not run yet.
func (a *api) attach(ctx context.Context, id string) (io.ReadWriteCloser, error) {
	response, err := a.send(ctx, request{
		method: http.MethodPost, path: "/containers/" + id + "/attach", upgrade: true,
		query: url.Values{"stream": {"1"}, "stdin": {"1"}, "stdout": {"1"}, "stderr": {"1"}},
	})
	if err != nil {
		return nil, err
	}
	conn, ok := response.Body.(io.ReadWriteCloser)
	if !ok || response.StatusCode != http.StatusSwitchingProtocols {
		response.Body.Close()
		return nil, fmt.Errorf("the Docker daemon did not connect to the container: %s", response.Status)
	}
	return conn, nil
}
