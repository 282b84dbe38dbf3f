package eventloop

import (
	"sync"
	"sync/atomic"
)

const chunkSize = 1024

// table finds the Conn of a file descriptor. Descriptors are small and dense, so it is an array in chunks; reading it
// takes no lock.
type table struct {
	grow   sync.Mutex
	chunks [4096]atomic.Pointer[chunk] // up to four million descriptors
}

type chunk [chunkSize]atomic.Pointer[Conn]

func (t *table) get(fd int) *Conn {
	if c := t.chunks[fd/chunkSize].Load(); c != nil {
		return c[fd%chunkSize].Load()
	}
	return nil
}

func (t *table) set(fd int, conn *Conn) {
	at := &t.chunks[fd/chunkSize]
	c := at.Load()
	if c == nil {
		t.grow.Lock()
		if c = at.Load(); c == nil {
			c = new(chunk)
			at.Store(c)
		}
		t.grow.Unlock()
	}
	c[fd%chunkSize].Store(conn)
}
