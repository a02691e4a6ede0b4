package flannel

import (
	"context"
	"log/slog"
	"time"

	"github.com/podweft/podweft/cniplugin"
)

// pluginsAgain is how long the CNI plugin works alone after something kept the daemon from helping it.
const pluginsAgain = 10 * time.Second

// servePlugins does for the node's CNI plugin what takes a process that stays, until ctx ends: links are deleted many at a time, host
// ports and masquerading come back. The store plays no part in it. The plugin works alone where it finds nobody, so that what goes
// wrong here is no reason for the daemon to end.
func (o *Options) servePlugins(ctx context.Context, log *slog.Logger) {
	if o.PluginDir == "" {
		return
	}
	for last := ""; ; {
		err := o.servePluginsOnce(ctx, log)
		if err == nil || ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != last {
			log.WarnContext(ctx, "the CNI plugin works alone: its DEL waits for the kernel, and host ports and masquerading that somebody removes stay away",
				"dir", o.PluginDir, "err", err)
			last = text
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pluginsAgain):
		}
	}
}

// servePluginsOnce does so until ctx ends, or until it cannot.
func (o *Options) servePluginsOnce(ctx context.Context, log *slog.Logger) error {
	agent, err := cniplugin.NewAgent(cniplugin.AgentConfig{StateDir: o.PluginDir, NetNS: o.NetNS, Logger: log})
	if err != nil {
		return err
	}
	return agent.Run(ctx)
}
