package api

// HeaderServer is in every answer of a Hearth server, whose workers know by it
// that they may ask for what other servers of the API do not have.
const HeaderServer = "hearth-server"
