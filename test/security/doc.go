// Package security tries to get out of sandboxes, and to harm what is around
// them. Each attempt is a test of its own that fails if the attempt succeeds.
// Where it can be tried without harm, the same attempt is made on the host
// first, to see that it is the sandbox that stops it. It owns nothing.
//
//	go test ./test/security
//	go test ./test/security -run Leaks -cycles 1000
package security
