#!/bin/sh
# Bucket, policies and keys of the workspace, by SeaweedFS's own shell. Run again, it brings changed policies and keys into force.
set -eu

shell() {
  weed shell -master=127.0.0.1:9333 -filer=127.0.0.1:8888
}

buckets=$(echo "s3.bucket.list" | shell)
case $buckets in
  *" mammo	"*) ;;
  *) echo "s3.bucket.create -name mammo" | shell ;;
esac

shell <<END
s3.policy -put -name=etl -file=/store/etl.json
s3.policy -put -name=train -file=/store/train.json
END
# What it answers has the secrets in it.
shell <<END >/dev/null
s3.configure -user=etl -access_key=$ETL_KEY -secret_key=$ETL_SECRET -policies=etl -apply
s3.configure -user=train -access_key=$TRAIN_KEY -secret_key=$TRAIN_SECRET -policies=train -apply
END
echo "s3.user.list" | shell
