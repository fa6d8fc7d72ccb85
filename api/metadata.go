package api

import "unicode/utf8"

// The limits of an object's metadata.
const (
	MaxMetadataPairs = 16
	MaxMetadataKey   = 64
	MaxMetadataValue = 512
)

// MergeMetadata applies a patch, whose nil values delete their keys, and checks
// the limits of the result.
func MergeMetadata(metadata map[string]string, patch map[string]*string) error {
	for key, value := range patch {
		if value == nil {
			delete(metadata, key)
		} else {
			metadata[key] = *value
		}
	}
	return CheckMetadata(metadata)
}

// CheckMetadata checks the limits: 16 pairs, keys of 1 to 64 characters, values
// of up to 512.
func CheckMetadata(metadata map[string]string) error {
	if n := len(metadata); n > MaxMetadataPairs {
		return Invalid("metadata", "has %d pairs, at most %d are allowed", n, MaxMetadataPairs).WithCode("invalid_metadata")
	}
	for key, value := range metadata {
		if n := utf8.RuneCountInString(key); n == 0 || n > MaxMetadataKey {
			return Invalid("metadata", "the key %.80q has %d characters, want 1 to %d", key, n, MaxMetadataKey).WithCode("invalid_metadata")
		}
		if n := utf8.RuneCountInString(value); n > MaxMetadataValue {
			return Invalid("metadata."+key, "has %d characters, at most %d are allowed", n, MaxMetadataValue).WithCode("invalid_metadata")
		}
	}
	return nil
}
