//go:build !amd64

package main

// tables are attempts by what other processors have: other tables of system
// calls, and segments.
var tables []try
