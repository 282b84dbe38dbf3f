package pool

import "github.com/weirproxy/weir/eventloop"

// Waiter is a place in a queue. It is part of the borrower's struct; its zero value is in no queue.
type Waiter struct {
	Loop *eventloop.Loop // where Task is to run
	Task eventloop.Task  // run once when the wait is over; it calls Answer

	next, prev *Waiter
	queued     bool
	server     *Server
	err        error
}

// Answer is what the wait ended with. A server that is not wanted any more is given back by the caller.
func (w *Waiter) Answer() (*Server, error) {
	s, err := w.server, w.err
	w.server, w.err = nil, nil
	return s, err
}

// answer ends the wait of a Waiter that has left the queue.
func (w *Waiter) answer(s *Server, err error) {
	w.server, w.err = s, err
	w.Loop.Post(w.Task)
}

// waitlist is a queue in order of arrival; leaving from the middle is O(1).
type waitlist struct {
	head, tail *Waiter
	len        int
}

func (q *waitlist) push(w *Waiter) {
	w.queued, w.prev, w.next = true, q.tail, nil
	if q.tail != nil {
		q.tail.next = w
	} else {
		q.head = w
	}
	q.tail = w
	q.len++
}

func (q *waitlist) pop() *Waiter {
	w := q.head
	if w != nil {
		q.remove(w)
	}
	return w
}

func (q *waitlist) popAll() (all []*Waiter) {
	for w := q.pop(); w != nil; w = q.pop() {
		all = append(all, w)
	}
	return all
}

func (q *waitlist) remove(w *Waiter) bool {
	if !w.queued {
		return false
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.tail = w.prev
	}
	w.queued, w.next, w.prev = false, nil, nil
	q.len--
	return true
}
