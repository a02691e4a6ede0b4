package calico

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// table writes rows in columns.
func table(out io.Writer, head string, rows [][]string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, strings.ReplaceAll(head, "|", "\t"))
	for _, r := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush()
}

// print writes the status for people.
func (s Status) print(out io.Writer) {
	ready := "ready"
	if !s.Ready {
		ready = "not ready"
	}
	_, _ = fmt.Fprintf(out, "%s is %s: %s (%s), MTU of pods %d\n", s.Node, ready, s.Device, s.Underlay, s.MTU)
	for _, p := range []struct {
		what string
		list []string
	}{{"! ", nonEmpty(s.Problem)}, {"left out: ", s.Problems}, {"left alone: ", s.Leftovers}} {
		for _, text := range p.list {
			_, _ = fmt.Fprintf(out, "%s%s\n", p.what, text)
		}
	}
	if s.BGP != nil {
		_, _ = fmt.Fprintf(out, "\nBGP: AS %d, router %s, %d of %d sessions up\n", s.BGP.AS, s.BGP.RouterID, s.BGP.Established, len(s.BGP.Peers))
		var rows [][]string
		for _, p := range s.BGP.Peers {
			since := ""
			if !p.Since.IsZero() {
				since = p.Since.Local().Format(time.TimeOnly)
			}
			rows = append(rows, []string{p.Addr.String(), p.Name, fmt.Sprint(p.AS), string(p.State), since, fmt.Sprint(p.Received), p.Reason})
		}
		table(out, "PEER|NAME|AS|STATE|SINCE|PATHS|INFO", rows)
	}
	_, _ = fmt.Fprintf(out, "\nRoutes to other nodes' blocks:\n")
	var rows [][]string
	for _, r := range s.Routes {
		rows = append(rows, []string{r.Prefix.String(), r.NextHop.String(), r.Node, r.Way, r.Problem})
	}
	table(out, "PREFIX|VIA|NODE|WAY|INFO", rows)
	_, _ = fmt.Fprintf(out, "\nBlocks of this node:\n")
	rows = nil
	for _, b := range s.Blocks {
		rows = append(rows, []string{b.Prefix.String(), b.Pool, fmt.Sprint(b.Used)})
	}
	table(out, "BLOCK|POOL|ADDRESSES", rows)
	for _, p := range s.Parts {
		for _, f := range p.Failing {
			_, _ = fmt.Fprintf(out, "\n! %s: %s\n", p.Name, f)
		}
	}
}

func nonEmpty(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}
