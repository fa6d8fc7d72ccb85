//go:build !amd64

package filter

// deniedHere are those that only this kind of processor has.
var deniedHere []uint32
