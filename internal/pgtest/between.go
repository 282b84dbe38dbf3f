package pgtest

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// Between starts something between clients and the server of a connection URL, and returns the URL that leads through it. pass is called
// for each connection of a client with one of its own to the server, and closes both in the end; what it starts runs in running. When the test is
// over nobody is let in any more, end is called, and what runs is waited for.
func Between(tb testing.TB, dsn string, running *sync.WaitGroup, end func(), pass func(client, server net.Conn)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	way, err := url.Parse(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	address := way.Host
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				tb.Error(err)
				client.Close()
				continue
			}
			pass(client, server)
		}
	})
	tb.Cleanup(func() {
		l.Close()
		end()
		running.Wait()
	})
	way.Host = l.Addr().String()
	return way.String()
}
