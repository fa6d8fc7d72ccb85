package api

import (
	"crypto/rand"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// The prefixes of the ids the server makes. Clients treat ids as opaque.
const (
	PrefixAgent       = "agent"
	PrefixAPIKey      = "apikey"
	PrefixDataKey     = "dkey"
	PrefixEnvironment = "env"
	PrefixEnvKey      = "envkey"
	PrefixEvent       = "sevt"
	PrefixFile        = "file"
	PrefixRequest     = "req"
	PrefixResource    = "sesrsc"
	PrefixSession     = "sesn"
	PrefixThread      = "sthr"
	PrefixWork        = "work"
	PrefixWorkspace   = "wrkspc"
)

// NewID makes an id that is unique, sorts by creation time and says what it
// names: the prefix, an underscore and 26 lowercase characters. It is not a
// secret.
func NewID(prefix string) string {
	return prefix + "_" + strings.ToLower(ulid.MustNew(ulid.Timestamp(time.Now()), rand.Reader).String())
}
