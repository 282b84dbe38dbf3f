package eventloop

import "golang.org/x/sys/unix"

// finWait2 is the state of a TCP connection whose end was confirmed by the peer's kernel, while the peer has not ended its own
// (RFC 9293, section 3.3.2; linux/tcp_states.h).
const finWait2 = 5

// PeerHolds reports whether the peer is known to keep the connection open, although it knows that we have ended our side: its
// machine answers, its process has not closed the socket.
func (c *Conn) PeerHolds() bool {
	if !c.Open() || c.hangup {
		return false
	}
	info, err := unix.GetsockoptTCPInfo(int(c.fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil { // a Unix socket: its peer is on this machine
		return true
	}
	return info.State == finWait2
}
