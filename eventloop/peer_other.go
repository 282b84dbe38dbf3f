//go:build !linux

package eventloop

// PeerHolds reports whether the peer is known to keep the connection open, although it knows that we have ended our side. Here the
// system does not tell.
func (c *Conn) PeerHolds() bool { return false }
