package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// pull has the daemon fetch an image from its registry. Images that need a login
// have to be there already.
func (d *daemon) pull(ctx context.Context, image string) error {
	query := url.Values{"fromImage": {image}}
	if !strings.ContainsAny(path.Base(image), ":@") {
		query.Set("tag", "latest") // or it would pull every tag there is
	}
	progress, err := d.send(ctx, request{method: http.MethodPost, path: "/images/create", query: query})
	if err != nil {
		return err
	}
	defer progress.Body.Close()
	for reports := json.NewDecoder(progress.Body); ; {
		var report struct{ Error string }
		switch err := reports.Decode(&report); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case report.Error != "":
			return errors.New(report.Error)
		}
	}
}
