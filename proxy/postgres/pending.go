package postgres

import "github.com/weirproxy/weir/eventloop"

// pending are bytes for a server that it has not taken yet. The slice is kept for the next ones.
type pending []byte

// write sends b, or as much of it as is taken now, behind what is pending. Errors: those of [eventloop.Conn.Write].
func (p *pending) write(c *eventloop.Conn, b []byte) error {
	if len(*p) > 0 {
		*p = append(*p, b...)
		return p.flush(c)
	}
	n, err := c.Write(b)
	if err != nil {
		*p = append(*p, b[n:]...)
	}
	return err
}

// flush sends what is pending; without an error all of it was taken.
func (p *pending) flush(c *eventloop.Conn) error {
	if err := c.Flush(); err != nil || len(*p) == 0 {
		return err
	}
	n, err := c.Write(*p)
	*p = append((*p)[:0], (*p)[n:]...)
	return err
}
