package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// spoken is the version of the API that this package is written to: 1.spoken. A
// daemon too new for it is spoken to in the oldest it knows.
const spoken = 41

// daemon is one that has been asked what it is.
type daemon struct {
	*api
	// rootless tells that it is not root itself, nor is the root of its containers.
	rootless bool
	// remapped tells that it gives containers other users than the host's.
	remapped bool
	// runtimes are the names of what it runs containers with.
	runtimes []string
}

// connect asks the daemon what it is, once.
func (e *Engine) connect(ctx context.Context) (*daemon, error) {
	e.connecting.Lock()
	defer e.connecting.Unlock()
	if e.daemon != nil {
		return e.daemon, nil
	}
	socket, ok := strings.CutPrefix(e.cfg.Host, "unix://")
	if !ok {
		return nil, fmt.Errorf("the Docker daemon at %q is not on this host, whose files sandboxes work on; name its socket with --docker-host unix:///path", e.cfg.Host)
	}
	d := &daemon{api: dial(socket)}
	var version struct{ APIVersion, MinAPIVersion, Os string }
	if err := d.do(ctx, request{method: http.MethodGet, path: "/version"}, &version); err != nil {
		return nil, err
	}
	newest, err := minor(version.APIVersion)
	if err != nil {
		return nil, err
	}
	oldest, err := minor(version.MinAPIVersion)
	if err != nil {
		return nil, err
	}
	switch {
	case version.Os != "linux":
		return nil, fmt.Errorf("the Docker daemon at %s runs containers of %s, not of Linux", socket, version.Os)
	case newest < spoken:
		return nil, fmt.Errorf("the Docker daemon at %s is too old; it must be 20.10 or newer (API 1.%d, it has 1.%d)", socket, spoken, newest)
	}
	d.prefix = fmt.Sprintf("/v1.%d", max(spoken, oldest))
	var info struct {
		SecurityOptions []string
		Runtimes        map[string]struct{}
	}
	if err := d.do(ctx, request{method: http.MethodGet, path: "/info"}, &info); err != nil {
		return nil, err
	}
	has := func(option string) bool {
		return slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return o == option || strings.HasPrefix(o, option+",") })
	}
	d.rootless, d.remapped = has("name=rootless"), has("name=userns")
	d.runtimes = slices.Sorted(maps.Keys(info.Runtimes))
	if d.rootless && os.Getuid() == 0 {
		return nil, errors.New("the Docker daemon is rootless and this worker is root; run the worker as the daemon's user")
	}
	e.daemon = d
	return d, nil
}

// knows tells what the daemon would refuse of every container.
func (d *daemon) knows(ctx context.Context, image, runtime string) error {
	// A shim's name or path it takes without having been told of it.
	if runtime != "" && !strings.ContainsAny(runtime, "./") && !slices.Contains(d.runtimes, runtime) {
		return fmt.Errorf("the Docker daemon has no runtime %q, but %s; add it to the daemon's configuration, or mend --docker-runtime", runtime, strings.Join(d.runtimes, ", "))
	}
	err := d.do(ctx, request{method: http.MethodGet, path: (&url.URL{Path: "/images/" + image + "/json"}).EscapedPath()}, nil)
	if refused(err, http.StatusNotFound) {
		return nil // it is pulled when it is needed
	}
	if err != nil {
		return fmt.Errorf("the image %q, which --docker-image names: %w", image, err)
	}
	return nil
}

// minor is the n of version 1.n.
func minor(version string) (int, error) {
	n, ok := strings.CutPrefix(version, "1.")
	if v, err := strconv.Atoi(n); ok && err == nil {
		return v, nil
	}
	return 0, fmt.Errorf("what answers is no Docker daemon: it speaks version %q", version)
}
