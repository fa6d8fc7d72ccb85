package api

import (
	"crypto/rand"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// The prefixes of the ids the server makes. Clients treat ids as opaque.
const (
	PrefixAgent        = "agent"
	PrefixAPIKey       = "apikey"
	PrefixCredential   = "vcrd"
	PrefixDataKey      = "dkey"
	PrefixDelivery     = "whd"
	PrefixDeployment   = "depl"
	PrefixDream        = "drm"
	PrefixEnvironment  = "env"
	PrefixEnvKey       = "envkey"
	PrefixEvent        = "sevt"
	PrefixFile         = "file"
	PrefixMemory       = "mem"
	PrefixMemoryStore  = "memstore"
	PrefixMemoryVer    = "memver"
	PrefixRequest      = "req"
	PrefixResource     = "sesrsc"
	PrefixRun          = "drun"
	PrefixSession      = "sesn"
	PrefixSkill        = "skill"
	PrefixSkillVersion = "skillver"
	PrefixThread       = "sthr"
	PrefixVault        = "vlt"
	PrefixTunnel       = "tnl"
	PrefixTunnelCert   = "tcrt"
	PrefixTunnelToken  = "ttok"
	PrefixUserProfile  = "uprof"
	PrefixWebhook      = "whep"
	PrefixWebhookEvent = "whe"
	PrefixWork         = "work"
	PrefixWorkspace    = "wrkspc"
)

// NewID makes an id that is unique, sorts by creation time and says what it
// names: the prefix, an underscore and 26 lowercase characters. It is not a
// secret.
func NewID(prefix string) string {
	return prefix + "_" + strings.ToLower(ulid.MustNew(ulid.Timestamp(time.Now()), rand.Reader).String())
}

// IsName tells whether a text is a name as ids and tools have them: 1 to 128
// letters, digits, underscores and hyphens. It can name a file.
func IsName(text string) bool {
	if text == "" || len(text) > 128 {
		return false
	}
	for _, c := range []byte(text) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// IsDigest tells whether a text is a full Git object id: 40 or 64 lowercase
// hexadecimal digits.
func IsDigest(text string) bool {
	return (len(text) == 40 || len(text) == 64) && strings.Trim(text, "0123456789abcdef") == ""
}
