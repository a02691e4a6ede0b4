package main

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// between is the time from one round of datagrams to the next.
const between = 20 * time.Millisecond

// rain is datagrams to all addresses of networks, round by round: whoever gets one of the addresses is reached from its first moment, if
// anything lets him be.
type rain struct {
	conn  *net.UDPConn
	to    []netip.AddrPort
	stop  chan struct{}
	done  sync.WaitGroup
	round chan struct{} // told of each round that is over, if somebody waits
}

func fall(networks []string) (*rain, error) {
	r := &rain{stop: make(chan struct{}), round: make(chan struct{})}
	for _, text := range networks {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		for a := network.Masked().Addr(); network.Contains(a); a = a.Next() {
			r.to = append(r.to, netip.AddrPortFrom(a, 9)) // nobody listens there: it is the kernel that counts
		}
	}
	var err error
	if r.conn, err = net.ListenUDP("udp", nil); err != nil {
		return nil, err
	}
	r.done.Go(r.send)
	return r, nil
}

func (r *rain) send() {
	tick := time.NewTicker(between)
	defer tick.Stop()
	for {
		for _, to := range r.to {
			_, _ = r.conn.WriteToUDPAddrPort([]byte{0}, to) // there is a way to some alone
		}
		select {
		case r.round <- struct{}{}:
		default:
		}
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
	}
}

func (r *rain) end() {
	close(r.stop)
	r.done.Wait()
	_ = r.conn.Close()
}

func (s *server) spray(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	networks := r.URL.Query()["to"]
	if len(networks) == 0 && s.rain != nil {
		s.rain.end()
		s.rain = nil
	}
	if len(networks) > 0 && s.rain == nil {
		rain, err := fall(networks)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.rain = rain
	}
	if s.rain != nil { // one round may have begun before somebody asked
		<-s.rain.round
		<-s.rain.round
	}
}

// datagrams says how many have reached the pod's kernel since its network is there, whether a program was or not.
func datagrams(w http.ResponseWriter, _ *http.Request) {
	count, err := arrived()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(count)
}

func arrived() (count int, err error) {
	of4, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	of6, err := os.ReadFile("/proc/net/snmp6")
	if err != nil && !os.IsNotExist(err) { // the kernel may have no IPv6
		return 0, err
	}
	add := func(name, value string) {
		if name == "InDatagrams" || name == "NoPorts" || name == "InErrors" {
			n, failed := strconv.Atoi(value)
			count, err = count+n, errors.Join(err, failed)
		}
	}
	err = errors.New("/proc/net/snmp does not count datagrams")
	var names []string
	for line := range strings.Lines(string(of4)) { // two of each protocol: names, and numbers in their order
		rest, is := strings.CutPrefix(line, "Udp:")
		switch fields := strings.Fields(rest); {
		case !is:
		case names == nil:
			names, err = fields, nil
		default:
			for i, value := range fields {
				add(names[i], value)
			}
		}
	}
	for line := range strings.Lines(string(of6)) {
		if fields := strings.Fields(line); len(fields) == 2 {
			name, is := strings.CutPrefix(fields[0], "Udp6")
			if is {
				add(name, fields[1])
			}
		}
	}
	return count, err
}
