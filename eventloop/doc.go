// Package eventloop waits for many sockets with few goroutines.
//
// A [Group] runs a fixed number of loops, each a goroutine around one epoll instance (Linux; kqueue elsewhere). A
// [Conn] is a socket that a loop watches: when something may be read or written, the loop calls the Conn's [Handler].
// An idle Conn costs its struct and a slot in a table: no goroutine, no buffer.
//
// Everything about a Conn happens on the goroutine of its loop, so its state needs no lock. What comes from elsewhere
// is posted ([Loop.Post]). A Conn may move to another loop ([Conn.MoveTo]) while its owner holds it exclusively.
//
// Readiness is edge-triggered: registered once, never changed. The Conn remembers whether more may be read, so a handler
// that stops reading (because the other side is slow) loses nothing, and the kernel's window closes by itself.
package eventloop
