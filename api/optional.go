package api

import (
	"bytes"
	"encoding/json"
)

// Optional is a field of a request that may be absent, null or a value, where
// the three mean different things.
type Optional[T any] struct {
	Set   bool // the field was there
	Null  bool // and was null
	Value T
}

// UnmarshalJSON is called only for a field that is there.
func (o *Optional[T]) UnmarshalJSON(raw []byte) error {
	o.Set = true
	if bytes.Equal(raw, []byte("null")) {
		o.Null = true
		return nil
	}
	return json.Unmarshal(raw, &o.Value)
}

// Given tells whether there is a value.
func (o Optional[T]) Given() bool { return o.Set && !o.Null }

// Pointer is the value, or nil when there is none.
func (o Optional[T]) Pointer() *T {
	if !o.Given() {
		return nil
	}
	return &o.Value
}
