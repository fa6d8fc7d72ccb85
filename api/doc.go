// Package api is the wire contract as Go types: the objects, events, enums, ids
// and errors of the Managed Agents API that Hearth speaks on both sides of the
// perimeter. It owns openapi.json, the machine-readable form of the same
// contract. It has no behaviour beyond encoding and imports nothing of ours.
package api

import _ "embed"

// OpenAPI is the OpenAPI 3.1 document of the API, as served at /openapi.json.
//
//go:embed openapi.json
var OpenAPI []byte
