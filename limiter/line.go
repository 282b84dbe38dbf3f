package limiter

// fifo is a queue of requests in order of arrival; leaving from the middle is O(1).
type fifo struct {
	head, tail *Request
	len        int
}

func (q *fifo) push(r *Request) {
	r.prev, r.next = q.tail, nil
	if q.tail != nil {
		q.tail.next = r
	} else {
		q.head = r
	}
	q.tail = r
	q.len++
}

func (q *fifo) remove(r *Request) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		q.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		q.tail = r.prev
	}
	r.next, r.prev = nil, nil
	q.len--
}

// line are the requests of one flow, priority and lane that wait.
type line struct {
	fifo
	pace pace
}
