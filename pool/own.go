package pool

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/weirproxy/weir/eventloop"
)

// ErrQueueTimeout says that no place in the budget became free in time.
var ErrQueueTimeout = errors.New("waited too long for a server connection")

// Own opens a server connection with the startup parameters asked for one borrower alone: whatever is spoken over it is between
// the two. It ends with [Server.Retire] and is never lent to anyone else. l watches it.
//
// It counts like any other connection, and for its place in the budget it waits for at most wait, in the queue of all, which
// most may wait in. Errors: [ErrQueueFull], [ErrQueueTimeout], [ErrClosed], the cause of ctx's end, and those of the dial.
func (p *Pool) Own(ctx context.Context, l *eventloop.Loop, asked []Setting, most int, wait time.Duration) (*Server, error) {
	if err := p.reserveWithin(ctx, most, wait); err != nil {
		return nil, err
	}
	s, err := p.dialOwn(ctx, l, asked)
	if err != nil {
		p.budget.unreserve()
		return nil, err
	}
	return s, nil
}

func (p *Pool) reserveWithin(ctx context.Context, most int, wait time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, ErrQueueTimeout)
	defer cancel()
	return p.reserve(ctx, most)
}

// dialOwn opens the connection in a place that is reserved.
func (p *Pool) dialOwn(ctx context.Context, l *eventloop.Loop, asked []Setting) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, p.budget.cfg.Connect)
	defer cancel()
	d, err := p.dialPatiently(ctx, asked)
	if err != nil {
		return nil, err
	}
	fd, err := eventloop.Take(d.socket)
	if err != nil {
		return nil, err
	}
	s := newServer(p, d)
	attached := make(chan error, 1)
	l.Post(eventloop.TaskFunc(func() { attached <- s.Conn.Attach(l, fd, d.secure, s) }))
	if err := <-attached; err != nil {
		s.Conn.Close()
		return nil, err
	}
	s.counted(func(c *Counts) { c.Dialing--; c.Used++ })
	return s, nil
}

// Greeting is what the server has reported so far.
func (s *Server) Greeting() *Greeting { return &Greeting{Parameters: maps.Clone(s.params)} }
